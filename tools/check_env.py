#!/usr/bin/env python3
"""Say what of the training stack is active here and what falls back; exit 1 when the job could not run."""

import dataclasses
import json
import sys

from megatron_srp.errors import CommandParser, run_command


def main(argv: list[str]) -> int:
    from megatron_srp.training.flags.precision import PRECISIONS

    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--precision", choices=list(PRECISIONS), default="fp8-tensorwise", help="the job's number format"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs that the job wants on this machine")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--brief", action="store_true", help="print only why the job could not run")
    args = parser.parse_args(argv)

    from megatron_srp.training.checks.environment import look, problems

    rows = look()
    reasons = problems(rows, args.precision, args.gpus)
    if args.json:
        print(json.dumps({"components": [dataclasses.asdict(row) for row in rows], "problems": reasons}, indent=2))
        return int(bool(reasons))
    if not args.brief:
        width = max(len(row.component) for row in rows)
        for row in rows:
            print(f"{row.component:{width}}  {row.state:8}  {row.found}")
        print()
    for reason in reasons:
        print(f"error: a {args.precision} job cannot run here: {reason}", file=sys.stderr)
    if not reasons and not args.brief:
        print(f"a {args.precision} job can run here")
    return int(bool(reasons))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
