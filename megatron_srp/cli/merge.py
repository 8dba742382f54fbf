"""`srp merge`: finished shards joined into one, or the blend of them."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from megatron_srp.cli import work_folder
from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.data.shards.prefix import output_prefix
from megatron_srp.errors import UsageError
from megatron_srp.remote.objects import url_of

DESCRIPTION = """
Join finished shards into one, or print the blend that trains on them as they are.

The partitions of a set are joined in order, and none may be missing; their common prefix names all of
them: `srp merge out/joined out/corpus` joins out/corpus-00000-of-00016 and so on. Any of them may be
s3://BUCKET/FOLDER/NAME: shards are copied to --work-dir and joined there, and an OUT on S3 is uploaded.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp merge", description=DESCRIPTION)
    add = parser.add_argument
    add("output_prefix", metavar="OUT", help="prefix of the joined shards; leave it out with --print-blend")
    add("prefixes", metavar="PREFIX", nargs="*", help="--output-prefix of the shards to join, in order")
    add(
        "--print-blend",
        action="store_true",
        help="copy nothing; print the shards as a value for --data-path, weighted by their tokens",
    )
    add("--overwrite", action="store_true", help="replace existing output")
    work_folder.add_work_dir(parser)
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, and join or print."""
    args = build_parser().parse_args(argv)

    if args.print_blend:
        _print_blend([args.output_prefix, *args.prefixes], args.work_dir)
    elif not args.prefixes:
        raise UsageError(f"nothing to merge into {args.output_prefix}; pass OUT PREFIX [PREFIX ...]")
    else:
        _join(args)


def _print_blend(prefixes: list[str], work: str) -> None:
    from megatron_srp.data.shards.parts import blends, find_parts

    with work_folder.reading(work, *prefixes) as folder:
        found = blends(find_parts(work_folder.fetch_outputs(prefixes, folder, files=False)))
    for blend in found.values():
        print(" ".join(url_of(word, folder) for word in blend))
    next_step("srp train --data-path BLEND ... trains on it", to_stderr=True)


def _join(args: argparse.Namespace) -> None:
    from megatron_srp.data.preprocess.summary import print_files
    from megatron_srp.data.shards.merge import merge_shards
    from megatron_srp.data.shards.parts import find_parts

    out = output_prefix(args.output_prefix)
    upload = work_folder.shard_upload(args, None)
    with work_folder.reading(args.work_dir, *args.prefixes) as folder:
        parts = find_parts(work_folder.fetch_outputs(args.prefixes, folder), Path(args.output_prefix))
        overwrite = args.overwrite or (upload is not None and upload.waits_with("merged"))
        manifest = merge_shards(parts, args.output_prefix, overwrite, _every_half_minute(len(parts)))
    counts = manifest["counts"]
    print(f"{len(parts)} outputs joined: {counts['documents']:,} documents, {counts['tokens']:,} tokens")
    print_files(args.output_prefix, manifest)
    if upload:
        upload.publish()
        print(f"moved them to {out.rpartition('/')[0]}")
    next_step(f"srp verify {out} checks them; srp inspect {out} shows them")


def _every_half_minute(parts: int) -> Callable[[int], None]:
    """Reports the progress of a long merge on stderr."""
    shown = time.monotonic()

    def report(done: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"{done} of {parts} outputs copied", file=sys.stderr, flush=True)

    return report
