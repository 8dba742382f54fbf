#!/usr/bin/env python3
"""Show what the reflections of a shard are like, in one HTML page that needs no network."""

import argparse
import json
import sys
from pathlib import Path

from megatron_srp.errors import CommandParser, UsageError, run_command


def parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    add("prefix", metavar="PREFIX", help="--output-prefix of reflected shards, or the path of one .srp without .srp")
    add("--out", type=Path, metavar="FILE", help="the page (default: PREFIX.report.html, none with --json)")
    add("--json", action="store_true", help="print the numbers, and the sample, as JSON")
    add("--documents", type=int, default=40, metavar="N", help="how many to show (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the choice of documents (default: %(default)s)")
    add("--shard", metavar="PREFIX", help="the plain shard, for a sidecar that does not lie beside it")
    add("--tokenizer-model", metavar="PATH", help="where the tokenizer is now, if not where the manifest says")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    if args.documents < 0:
        raise UsageError(f"--documents {args.documents}: give a number of at least 0")

    from megatron_srp.reports.shard_report import inspect_shard, open_shard, write_shard_report

    inspection = open_shard(args.prefix.removesuffix(".srp"), args.shard, args.tokenizer_model)
    statistics, content = inspect_shard(inspection, args.documents, args.seed)
    if args.json:
        print(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        verdicts = ", ".join(f"{name} {count:,}" for name, count in content["verdicts"].items())
        print(f"documents     {content['documents']:,}\nsegments      {content['segments']:,}")
        print(f"verdicts      {verdicts}")
        print(f"tokens        {content['plain_tokens']:,} and {content['added_tokens']:,} of reflections")
        if inspection.no_texts:
            print(f"without texts: {inspection.no_texts}")
    if args.out or not args.json:
        page = write_shard_report(args.out or f"{inspection.name}.report.html", inspection, statistics, content)
        print(f"wrote {page}", file=sys.stderr if args.json else sys.stdout)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
