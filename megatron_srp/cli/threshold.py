"""`srp threshold`: the curve of two files of answers, and the threshold that it recommends."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.cli import generation_flags
from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.reflection import parse_stop_after

if TYPE_CHECKING:
    from megatron_srp.generation.threshold.recommend import Point

_SHOWN = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


DESCRIPTION = """
Choose --unsafe-threshold for one model: of the thresholds that stop few benign answers, the one that lets the fewest
attacks through. Both files hold answers that `srp generate --input PROMPTS --out FILE --on-unsafe off
--reflect-every N` wrote. A harmful line with `jailbroken: false` is an attack that fails at any threshold.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp threshold", description=DESCRIPTION, old_names=generation_flags.OLD_NAMES)
    add = parser.add_argument
    add("--harmful", type=Path, required=True, metavar="FILE", help="answers to harmful prompts")
    add("--benign", type=Path, required=True, metavar="FILE", help="answers to benign prompts")
    add("--max-false-stops", type=float, default=0.01, metavar="SHARE", help="maximum share of benign answers stopped")
    add(
        "--stop-after",
        default="Unsafe,Controversial",
        metavar="VERDICTS",
        help="verdicts that count as unsafe: Unsafe, Controversial or both",
    )
    return parser


def to_text(curve: Sequence["Point"], best: "Point | None", max_false_stops: float) -> str:
    """The curve at round thresholds, as a Markdown table, and the recommendation."""
    from megatron_srp.generation.threshold.recommend import at_threshold

    lines = ["| threshold | attack success % | false stops % |", "|---|---|---|"]
    rows = [(f"{at:g}", at_threshold(curve, at)) for at in _SHOWN]
    lines += [f"| {name} | {100 * p.attack_success:.1f} | {100 * p.false_stops:.1f} |" for name, p in rows]
    lines.append("")
    if best is None:
        return "\n".join([*lines, f"No threshold keeps false stops within {max_false_stops:.2%}."])
    own = GuardPolicy().unsafe_threshold
    default = at_threshold(curve, own)
    setting, low, high = (repr(value).removesuffix(".0") for value in (best.setting, *best.shown))
    return "\n".join(
        [
            *lines,
            f"--unsafe-threshold {setting}: attack success {best.attack_success:.1%}, false stops "
            f"{best.false_stops:.1%}; so does any above {low}, up to {high}.",
            f"The default, {own:g}: attack success {default.attack_success:.1%}, "
            f"false stops {default.false_stops:.1%}.",
        ]
    )


def main(argv: list[str]) -> None:
    """Parse `argv`, and print the curve and the recommended threshold."""
    args = build_parser().parse_args(argv)
    if not 0 <= args.max_false_stops < 1:
        raise UsageError(f"--max-false-stops {args.max_false_stops}: pass a share of at least 0, below 1")
    stop_after = parse_stop_after(args.stop_after, of="answer")

    from megatron_srp.generation.threshold.recommend import read_cases, recommend, threshold_curve

    harmful, benign = (read_cases(path, stop_after) for path in (args.harmful, args.benign))
    curve = threshold_curve([p for p, _ in harmful], [p for p, _ in benign], [success for _, success in harmful])
    best = recommend(curve, args.max_false_stops)
    print(f"{len(harmful)} harmful and {len(benign)} benign answers\n")
    print(to_text(curve, best, args.max_false_stops))
    if best is not None:
        next_step("srp serve --model ... --reflect-every N --unsafe-threshold P with this model alone")
