"""`tools/choose_threshold.py`: the curve of two files of answers, and the threshold that it recommends."""

from collections.abc import Sequence
from pathlib import Path

from megatron_srp.errors import CommandParser, UsageError
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.records import read_records
from megatron_srp.generation.threshold.recommend import (
    MAX_FALSE_STOPS,
    Point,
    at_threshold,
    read_case,
    recommend,
    threshold_curve,
)
from megatron_srp.reflection import parse_stop_after

_SHOWN = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def read_cases(path: Path, stop_at: frozenset) -> list[tuple[float, bool]]:
    """P(unsafe) of each line, and whether its attack succeeded; raises InputError."""
    return [read_case(record, stop_at, where) for where, record in read_records(path)]


def to_text(curve: Sequence[Point], best: Point | None, max_false_stops: float) -> str:
    """The curve at round thresholds, as a Markdown table, and what is recommended."""
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
    parser = CommandParser(
        description="Choose --unsafe-threshold from answers to harmful and to benign prompts, written by "
        "tools/generate.py --on-unsafe off --reflect-every N. A harmful line with `jailbroken: false` is an attack "
        "that fails in any case.",
    )
    add = parser.add_argument
    add("--harmful", type=Path, required=True, metavar="FILE", help="answers to harmful prompts")
    add("--benign", type=Path, required=True, metavar="FILE", help="answers to benign prompts")
    add(
        "--max-false-stops", type=float, default=MAX_FALSE_STOPS, metavar="SHARE", help="of benign ones (default: 0.01)"
    )
    add("--stop-at", default="Unsafe,Controversial", metavar="VERDICTS", help="what counts as unsafe (default: both)")
    args = parser.parse_args(argv)
    if not 0 <= args.max_false_stops < 1:
        raise UsageError(f"--max-false-stops {args.max_false_stops}: give a share of at least 0, below 1")
    stop_at = parse_stop_after(args.stop_at)
    harmful, benign = (read_cases(path, stop_at) for path in (args.harmful, args.benign))
    curve = threshold_curve([p for p, _ in harmful], [p for p, _ in benign], [success for _, success in harmful])
    print(f"{len(harmful)} harmful and {len(benign)} benign answers\n")
    print(to_text(curve, recommend(curve, args.max_false_stops), args.max_false_stops))
