"""`srp world report`: the report of what a run has finished so far; works while it is running."""

import argparse
import shlex
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step

DESCRIPTION = """
Write OUT/report.html, report.json and report.md from the models that `srp world run OUT` has measured so far, of all
seeds, while it runs or after it was stopped, and print the table.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp world report", description=DESCRIPTION)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of a run")
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, write the report, print the table. Returns the exit code."""
    args = build_parser().parse_args(argv)

    from megatron_srp.data.shards.manifest import software_versions
    from megatron_srp.machine import describe_machine
    from megatron_srp.medsafetyworld.experiment.collect import collect
    from megatron_srp.medsafetyworld.experiment.table import format_table
    from megatron_srp.medsafetyworld.measure.report import Context, write_report

    command = shlex.join(["srp", "world", "report", *argv])
    context = Context([command], software_versions(), machine=describe_machine())
    print(format_table(write_report(collect(args.out), args.out, context)))
    print(f"report        {args.out / 'report.html'}")
    next_step(f"open {args.out / 'report.html'} in a browser")
    return 0
