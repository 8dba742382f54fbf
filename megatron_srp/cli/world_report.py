"""`srp world report`: the report of what a run has finished so far; works while it is running."""

import argparse
import shlex
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step

DESCRIPTION = """
Write OUT/report.html, report.json and report.md from the models that `srp world run OUT` has measured so far, of all
seeds, while it runs or after it was stopped, and print the table. With --into, put its tables between the marks
<!-- world: NAME --> and <!-- end: NAME --> of a Markdown file.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp world report", description=DESCRIPTION)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of a run")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="a Markdown file with marks, such as docs/science.md (default: none)"
    )
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, write the report, print the table. Returns the exit code."""
    args = build_parser().parse_args(argv)

    from megatron_srp.data.shards.manifest import software_versions
    from megatron_srp.machine import describe_machine
    from megatron_srp.medsafetyworld.experiment.collect import collect
    from megatron_srp.medsafetyworld.experiment.table import format_table
    from megatron_srp.medsafetyworld.measure.documents import fill
    from megatron_srp.medsafetyworld.measure.report import Context, write_report
    from megatron_srp.medsafetyworld.measure.tables import markdown

    command = shlex.join(["srp", "world", "report", *argv])
    context = Context([command], software_versions(), machine=describe_machine())
    content = write_report(collect(args.out), args.out, context)
    print(format_table(content))
    if args.into:
        print(f"{args.into}: {', '.join(fill(args.into, markdown(content)))}")
    print(f"report        {args.out / 'report.html'}")
    next_step(f"open {args.out / 'report.html'} in a browser")
    return 0
