"""`srp threshold`: the threshold that a model's own answers recommend, and its calibration.json."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.cli import generation_flags
from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.reflection import parse_stop_after
from megatron_srp.schema import Verdict

if TYPE_CHECKING:
    from megatron_srp.generation.threshold.calibration import Cases

DESCRIPTION = """
Choose the threshold of a model's verdicts from its answers, and write it to calibration.json in the model's folder
(--model), where `srp generate`, `serve` and `evaluate` find it. The files contain answers written by `srp generate
--input PROMPTS --out FILE --on-unsafe off --reflect-every N`.

With --harmful it is the threshold that lets the fewest attacks through, among those that stop at most
--max-false-stops of the benign answers; without, the percentile of P(unsafe) that this share of the benign answers
exceeds. A line of --harmful with `jailbroken: false` counts as a failed attack at any threshold. --check tests an
existing calibration on answers to other benign prompts.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp threshold", description=DESCRIPTION, old_names=generation_flags.OLD_NAMES)
    add = parser.add_argument
    add("--model", metavar="DIR", help="the folder of the model that answered (default: nothing is written)")
    add(
        "--benign",
        type=Path,
        metavar="FILE",
        help="answers to benign prompts, to choose the threshold from (no default)",
    )
    add(
        "--check",
        type=Path,
        metavar="FILE",
        help="answers to other benign prompts, to test the calibration of --model (default: none)",
    )
    add("--harmful", type=Path, metavar="FILE", help="answers to harmful prompts (default: none)")
    add("--max-false-stops", type=float, default=0.01, metavar="SHARE", help="maximum share of benign answers stopped")
    add("--stop-after", metavar="VERDICTS", help=generation_flags.STOP_AFTER_HELP)
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, print the curve and the recommended threshold, and write it next to the model."""
    args = build_parser().parse_args(argv)
    if not 0 <= args.max_false_stops < 1:
        raise UsageError(f"--max-false-stops {args.max_false_stops}: pass a share of at least 0, below 1")
    if bool(args.check) == bool(args.benign):
        raise UsageError("pass one of --benign FILE, to choose a threshold, and --check FILE, to check the model's")
    if args.check:
        _check(args)
        return

    from megatron_srp.cli.threshold_text import to_text
    from megatron_srp.generation.threshold.calibration import calibrate

    folder = _folder(args.model) if args.model else None
    stop_at = parse_stop_after(args.stop_after, of="answer") if args.stop_after else _own(folder)
    benign = _read(args.benign, stop_at)
    harmful = _read(args.harmful, stop_at) if args.harmful else None
    found = calibrate(folder, benign, harmful, stop_at, args.max_false_stops)
    print(to_text(benign, harmful, found, args.max_false_stops))
    if found is None:
        raise InputError(
            f"{args.benign}: no threshold keeps false stops within {args.max_false_stops:.2%}; the model is certain "
            "that harmless answers are unsafe. Nothing was written"
        )
    if folder:
        print(f"wrote {found.write(folder)}")
        next_step(f"srp serve --model {folder} --reflect-every N")
    else:
        next_step("the same with --model DIR writes it to calibration.json next to that model")


def _check(args: argparse.Namespace) -> None:
    """Print how many of the answers the calibration stops, and a warning where they are too many."""
    from megatron_srp.cli.threshold_text import of_check
    from megatron_srp.generation.threshold.calibration import FILE, find_calibration

    if not args.model:
        raise UsageError("--check FILE compares with a calibration: pass --model DIR too")
    if args.harmful:
        raise UsageError("--check is for benign answers: leave --harmful out")
    found = find_calibration(args.model)
    if found is None:
        raise UsageError(f"--model {args.model}: has no {FILE} to check; --benign FILE makes one")
    print(of_check(_read(args.check, found.stop_at), found))


def _folder(model: str) -> Path:
    from megatron_srp.generation.model_folder import check_model_folder

    check_model_folder(model)
    if not Path(model).is_dir():
        raise UsageError(f"--model {model}: calibration.json goes into the model's folder; pass a folder")
    return Path(model)


def _own(folder: Path | None) -> frozenset[Verdict]:
    from megatron_srp.model_description import describe_model

    description = describe_model(str(folder)) if folder else None
    form = description.form if description else None
    return (form.stop_after if form else None) or GuardPolicy().stop_at


def _read(path: Path, stop_at: frozenset[Verdict]) -> "Cases":
    from megatron_srp.generation.threshold.calibration import Cases
    from megatron_srp.generation.threshold.recommend import read_cases

    cases = read_cases(path, stop_at)
    if not cases:
        raise InputError(f"{path}: no answers; write them with `srp generate --on-unsafe off --reflect-every N`")
    return Cases(path, [p for p, _ in cases], [success for _, success in cases])
