#!/usr/bin/env python3
"""Hold a guard against labelled texts: accuracy on safe and unsafe ones, confusion, calibration, thresholds."""

import argparse
import sys
from pathlib import Path

from megatron_srp.cli.guard_flags import add_guard_arguments, guard_from_args
from megatron_srp.errors import CommandParser, UsageError, run_command


def parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--dataset",
        nargs="+",
        required=True,
        metavar="FORMAT:PATH",
        help="xstest, advbench, harmbench, alpaca or gsm8k; or csv, json or jsonl with the columns below",
    )
    parser.add_argument("--text-column", metavar="NAME", help="of csv, json and jsonl: where the text is")
    parser.add_argument("--label-column", metavar="NAME", help="where it says safe or unsafe")
    parser.add_argument("--label", choices=["safe", "unsafe"], help="instead: what all texts are")
    parser.add_argument("--category-column", metavar="NAME", help="kinds of texts, to tell apart in the confusion")
    parser.add_argument(
        "--controversial", choices=["unsafe", "safe"], default="unsafe", help="as what it counts (default: unsafe)"
    )
    parser.add_argument("--agreement", action="store_true", help="compare with answers written in full")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    add_guard_arguments(parser)
    args = parser.parse_args(argv)
    if args.text_column and bool(args.label_column) == bool(args.label):
        raise UsageError("--text-column needs one of --label-column NAME and --label safe|unsafe")
    return args


def main(argv: list[str]) -> None:
    args = parse(argv)

    from megatron_srp.annotation.guard_evaluation.datasets import Columns, load_dataset
    from megatron_srp.annotation.guard_evaluation.evaluate import evaluate, write_json
    from megatron_srp.annotation.guard_evaluation.summary_text import to_text

    columns = None
    if args.text_column:
        columns = Columns(args.text_column, args.label_column, args.category_column, args.label)
    datasets = {name: load_dataset(name, columns) for name in args.dataset}
    guard = guard_from_args(args)
    found = evaluate(guard, datasets, args.controversial, with_agreement=args.agreement)
    guard.close()
    print(to_text(found))
    if args.json:
        write_json(found, args.json)
        print(f"wrote {args.json}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
