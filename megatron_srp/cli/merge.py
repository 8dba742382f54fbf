"""`srp merge`: finished shards joined into one, or the blend of them."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.data.shards.prefix import output_prefix
from megatron_srp.errors import UsageError

DESCRIPTION = """
Join finished shards into one, or print the blend that trains on them as they are.

The partitions of a set are joined in order, and none may be missing; their common prefix names all of
them: `srp merge out/joined out/corpus` joins out/corpus-00000-of-00016 and so on.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp merge", description=DESCRIPTION)
    add = parser.add_argument
    add("output_prefix", metavar="OUT", help="prefix of the joined shards; leave it out with --print-blend")
    add("prefixes", metavar="PREFIX", nargs="*", help="--output-prefix of the shards to join, in order")
    add(
        "--print-blend",
        action="store_true",
        help="copy nothing; print the value for --data-path, weighted by tokens",
    )
    add("--overwrite", action="store_true", help="replace existing output")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, and join or print."""
    args = build_parser().parse_args(argv)

    from megatron_srp.data.preprocess.summary import print_files
    from megatron_srp.data.shards.parts import blends, find_parts

    if args.print_blend:
        for blend in blends(find_parts([args.output_prefix, *args.prefixes])).values():
            print(" ".join(blend))
        next_step("srp train --data-path BLEND ... trains on it", to_stderr=True)
        return
    if not args.prefixes:
        raise UsageError(f"nothing to merge into {args.output_prefix}; pass OUT PREFIX [PREFIX ...]")

    from megatron_srp.data.shards.merge import merge_shards

    parts = find_parts(args.prefixes, Path(output_prefix(args.output_prefix)))
    manifest = merge_shards(parts, args.output_prefix, args.overwrite, _every_half_minute(len(parts)))
    counts = manifest["counts"]
    print(f"{len(parts)} outputs joined: {counts['documents']:,} documents, {counts['tokens']:,} tokens")
    print_files(args.output_prefix, manifest)
    next_step(f"srp verify {args.output_prefix} checks them; srp inspect {args.output_prefix} shows them")


def _every_half_minute(parts: int) -> Callable[[int], None]:
    """Reports the progress of a long merge on stderr."""
    shown = time.monotonic()

    def report(done: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"{done} of {parts} outputs copied", file=sys.stderr, flush=True)

    return report
