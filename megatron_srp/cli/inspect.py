"""`srp inspect`: the reflections of a shard, summarized as a page."""

import argparse
import json
import sys
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step, on_disk, require_at_least

DESCRIPTION = "Summarize the reflections of a shard in one HTML page that needs no network."


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp inspect", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "prefix",
        type=on_disk,
        metavar="PREFIX",
        help="--output-prefix of reflected shards, or the path of a .srp without its suffix",
    )
    add("--out", type=Path, metavar="FILE", help="page to write (default: PREFIX.report.html; none with --json)")
    add("--json", action="store_true", help="print the figures and the documents as JSON instead")
    add("--documents", type=int, default=40, metavar="N", help="documents to show")
    add("--seed", type=int, default=0, metavar="N", help="random seed for choosing the documents")
    add(
        "--shard",
        metavar="PREFIX",
        help="for a sidecar: the plain shard it belongs to (default: the one in the sidecar's folder)",
    )
    add("--tokenizer-model", metavar="PATH", help="where the tokenizer is now (default: where the manifest says)")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, count, print a summary, write the page."""
    args = build_parser().parse_args(argv)
    require_at_least(0, args, "--documents")

    from megatron_srp.reports.shard_report import inspect_shard, open_shard, write_shard_report

    prefix = args.prefix.removesuffix(".srp")
    inspection = open_shard(prefix, args.shard, args.tokenizer_model)
    statistics, content = inspect_shard(inspection, args.documents, args.seed)
    if args.json:
        print(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        verdicts = ", ".join(f"{name} {count:,}" for name, count in content["verdicts"].items())
        print(f"documents     {content['documents']:,}\nsegments      {content['segments']:,}")
        print(f"verdicts      {verdicts}")
        print(f"tokens        {content['plain_tokens']:,} and {content['added_tokens']:,} of reflections")
        if content["policy"] != "srp":
            print(f"policy        {content['policy']}")
            print(f"not read      {content['dropped_tokens']:,} of the tokens")
            print(f"not learned   {content['unlearned_tokens']:,} of the tokens")
        if inspection.no_texts:
            print(f"without texts: {inspection.no_texts}")
    if args.out or not args.json:
        page = write_shard_report(args.out or f"{inspection.name}.report.html", inspection, statistics, content)
        print(f"wrote {page}", file=sys.stderr if args.json else sys.stdout)
    if not args.json:
        next_step(f"open {page} in a browser; srp verify {prefix} checks the files")
