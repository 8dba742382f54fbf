"""`srp evaluate-guard`: a guard measured on labelled texts."""

import argparse
from pathlib import Path

from megatron_srp.cli import guard_flags
from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.errors import UsageError

DESCRIPTION = (
    "Evaluate a guard on labelled texts: accuracy on safe and unsafe texts, confusion, calibration, thresholds."
)


def build_parser() -> argparse.ArgumentParser:
    old_names = guard_flags.OLD_NAMES | guard_flags.OLD_MODE_NAMES
    parser = Parser(prog="srp evaluate-guard", description=DESCRIPTION, old_names=old_names)
    add = parser.add_argument_group("data").add_argument
    add(
        "--dataset",
        nargs="+",
        required=True,
        metavar="FORMAT:PATH",
        help="xstest, advbench, harmbench, alpaca or gsm8k; or csv, json or jsonl with the columns below",
    )
    add("--text-column", metavar="NAME", help="for csv, json and jsonl: the column of the text (no default)")
    add("--label-column", metavar="NAME", help="the column with safe or unsafe (no default)")
    add("--label", choices=["safe", "unsafe"], help="label of all texts, instead of --label-column (no default)")
    add("--category-column", metavar="NAME", help="sub-category column for the confusion matrix (default: none)")
    add = parser.add_argument_group("measures").add_argument
    add("--controversial", choices=["unsafe", "safe"], default="unsafe", help="count Controversial as this")
    add("--agreement", action="store_true", help="compare with answers generated in full")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE too (default: print only)")
    guard_flags.add_guard_flags(parser)
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, evaluate, print the figures."""
    args = build_parser().parse_args(argv)
    if args.text_column and bool(args.label_column) == bool(args.label):
        raise UsageError("--text-column needs one of --label-column NAME and --label safe|unsafe")

    from megatron_srp.annotation.guard_evaluation.datasets import Columns, load_dataset
    from megatron_srp.annotation.guard_evaluation.evaluate import evaluate, write_json
    from megatron_srp.annotation.guard_evaluation.summary_text import to_text

    columns = None
    if args.text_column:
        columns = Columns(args.text_column, args.label_column, args.category_column, args.label)
    datasets = {name: load_dataset(name, columns) for name in args.dataset}
    guard = guard_flags.guard_from_args(args)
    found = evaluate(guard, datasets, args.controversial, with_agreement=args.agreement)
    guard.close()
    print(to_text(found))
    if args.json:
        write_json(found, args.json)
        print(f"wrote {args.json}")
    next_step(f"srp annotate --guard {args.guard} ... judges a corpus with it, from --guard-threshold on")
