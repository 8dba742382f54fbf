"""`srp compare`: two evaluations, with paired significance."""

import argparse
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="srp compare", description="Compare two evaluations case by case, with paired significance tests."
    )
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="the --out folder of `srp evaluate`, or its report.json")
    add("b", type=Path, metavar="B", help="the evaluation to compare it with, likewise")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE too (default: print only)")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, compare, print the table."""
    args = build_parser().parse_args(argv)

    from megatron_srp.evaluation.compare import compare, to_json, to_text

    names = (str(args.a), str(args.b))
    found, left_out = compare(args.a, args.b)
    print(to_text(found, left_out, names))
    if args.json:
        args.json.write_text(to_json(found, left_out, names), encoding="utf-8")
        print(f"wrote {args.json}")
    pages = " and ".join(str(_folder(path) / "report.html") for path in (args.a, args.b))
    next_step(f"open {pages} in a browser, which show the cases")


def _folder(evaluation: Path) -> Path:
    return evaluation.parent if evaluation.suffix == ".json" else evaluation
