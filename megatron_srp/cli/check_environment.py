"""`srp check environment`: the training stack on this machine."""

import argparse
import dataclasses
import json
import sys

from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.training.flags.precision import PRECISIONS

DESCRIPTION = """
Report which parts of the training stack are available here and which fall back to something slower. With --precision
or --gpus the exit code is 1 where such a job cannot run.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp check environment", description=DESCRIPTION)
    add = parser.add_argument
    add("--precision", choices=list(PRECISIONS), help="number format of the job (default: report on all)")
    add("--gpus", type=int, metavar="N", help="GPUs that the job needs on this machine (default: any number)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--brief", action="store_true", help="print only why the job cannot run")
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, look, print. Returns the exit code."""
    args = build_parser().parse_args(argv)
    require_at_least(1, args, "--gpus")

    from megatron_srp.training.checks.environment import look, problems

    rows = look()
    asked = args.precision or ("bf16" if args.gpus else None)
    reasons = problems(rows, asked, args.gpus) if asked else []
    if args.json:
        print(json.dumps({"components": [dataclasses.asdict(row) for row in rows], "problems": reasons}, indent=2))
        return int(bool(reasons))
    if not args.brief:
        width = max(len(row.component) for row in rows)
        for row in rows:
            print(f"{row.component:{width}}  {row.state:8}  {row.found}")
        print()
    for reason in reasons:
        print(f"error: a {asked} job cannot run here: {reason}", file=sys.stderr)
    if not reasons and not args.brief:
        able = [asked] if asked else [name for name in PRECISIONS if not problems(rows, name)]
        print(f"training on GPUs can run here in: {', '.join(able)}" if able else _ON_CPU)
        next_step("srp smoke tries the whole path")
    return int(bool(reasons))


_ON_CPU = "no training on GPUs can run here (--precision NAME says why); on the CPU it can, for demos and tests"
