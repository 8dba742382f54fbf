"""`srp inspect`: the reflections of a shard, summarized as a page."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from megatron_srp.cli import work_folder
from megatron_srp.cli.parser import Parser, next_step, on_disk_or_s3, require_at_least
from megatron_srp.remote.drivers import on_s3

DESCRIPTION = "Summarize the reflections of a shard in one HTML page that needs no network."


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp inspect", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "prefix",
        type=on_disk_or_s3,
        metavar="PREFIX",
        help="--output-prefix of reflected shards, or the path of a .srp without its suffix; also s3://BUCKET/FOLDER/NAME",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="page to write (default: PREFIX.report.html, for data on S3 in this folder; none with --json)",
    )
    add("--json", action="store_true", help="print the figures and the documents as JSON instead")
    add("--documents", type=int, default=40, metavar="N", help="documents to show")
    add("--seed", type=int, default=0, metavar="N", help="random seed for choosing the documents")
    add(
        "--shard",
        type=on_disk_or_s3,
        metavar="PREFIX",
        help="for a sidecar: the plain shard it belongs to (default: the one in the sidecar's folder)",
    )
    add("--tokenizer-model", metavar="PATH", help="where the tokenizer is now (default: where the manifest says)")
    work_folder.add_work_dir(parser)
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, count, print a summary, write the page."""
    args = build_parser().parse_args(argv)
    require_at_least(0, args, "--documents")

    prefix = args.prefix.removesuffix(".srp")
    page = args.out
    if page is None and not args.json and on_s3(prefix):
        page = Path(f"{prefix.rpartition('/')[2]}.report.html")
    with work_folder.reading(args.work_dir, prefix, args.shard) as folder:
        args.shard = work_folder.fetch_shard(args.shard, folder)
        page = _inspect(args, folder, work_folder.fetch_output(prefix, folder), page)
    if not args.json:
        next_step(f"open {page} in a browser; srp verify {prefix} checks the files")


def _inspect(args: argparse.Namespace, folder: Path, prefix: str | Path, page: Path | None) -> Path | None:
    """Returns the page that was written."""
    from megatron_srp.reports.shard_report import inspect_shard, open_shard, write_shard_report

    inspection = open_shard(prefix, args.shard, args.tokenizer_model)
    statistics, content = inspect_shard(inspection, args.documents, args.seed)
    content["shard"] = work_folder.with_urls(content["shard"], folder)
    if args.json:
        print(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        _print_summary(content)
        if inspection.no_texts:
            print(f"without texts: {inspection.no_texts}")
        page = page or Path(f"{inspection.name}.report.html")
    if page is None:
        return None
    written = write_shard_report(page, inspection, statistics, content)
    print(f"wrote {written}", file=sys.stderr if args.json else sys.stdout)
    return written


def _print_summary(content: dict[str, Any]) -> None:
    verdicts = ", ".join(f"{name} {count:,}" for name, count in content["verdicts"].items())
    print(f"documents     {content['documents']:,}\nsegments      {content['segments']:,}")
    print(f"verdicts      {verdicts}")
    print(f"tokens        {content['plain_tokens']:,} and {content['added_tokens']:,} of reflections")
    if content["policy"] != "srp":
        print(f"policy        {content['policy']}")
        print(f"not read      {content['dropped_tokens']:,} of the tokens")
        print(f"not learned   {content['unlearned_tokens']:,} of the tokens")
