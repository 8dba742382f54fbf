#!/usr/bin/env python3
"""Put two evaluations side by side, with paired significance."""

import sys
from pathlib import Path

from megatron_srp.errors import CommandParser, run_command


def main(argv: list[str]) -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("a", type=Path, metavar="A", help="the --out folder of tools/evaluate.py, or its report.json")
    parser.add_argument("b", type=Path, metavar="B", help="the other")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    args = parser.parse_args(argv)

    from megatron_srp.evaluation.compare import compare, to_json, to_text

    names = (str(args.a), str(args.b))
    found, left_out = compare(args.a, args.b)
    print(to_text(found, left_out, names))
    if args.json:
        args.json.write_text(to_json(found, left_out, names), encoding="utf-8")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
