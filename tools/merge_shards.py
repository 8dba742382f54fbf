#!/usr/bin/env python3
"""Join finished shards into one, or print the blend that trains on them as they are.

The partitions of a set are joined in their order, and none may be missing; the prefix they were made under
stands for all of them: `merge_shards.py out/corpus out/corpus` joins out/corpus-00000-of-00016 and so on.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from megatron_srp.data.shards.prefix import output_prefix
from megatron_srp.errors import CommandParser, UsageError, run_command


def every_half_minute(parts: int) -> Callable[[int], None]:
    """Tells on stderr how far a long merge is."""
    shown = time.monotonic()

    def report(done: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"{done} of {parts} outputs copied", file=sys.stderr, flush=True)

    return report


def main(argv: list[str]) -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_prefix", metavar="OUT", help="prefix of the joined shards; none with --print-blend")
    parser.add_argument("prefixes", metavar="PREFIX", nargs="*", help="--output-prefix of shards to join, in order")
    parser.add_argument(
        "--print-blend", action="store_true", help="copy nothing; print what --data-path takes, weights by tokens"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args(argv)

    from megatron_srp.data.shards.parts import blends, find_parts

    if args.print_blend:
        for blend in blends(find_parts([args.output_prefix, *args.prefixes])).values():
            print(" ".join(blend))
        return
    if not args.prefixes:
        raise UsageError(f"which shards are to be joined under {args.output_prefix}? give OUT PREFIX [PREFIX ...]")

    from megatron_srp.data.shards.merge import merge_shards

    parts = find_parts(args.prefixes, Path(output_prefix(args.output_prefix)))
    manifest = merge_shards(parts, args.output_prefix, args.overwrite, every_half_minute(len(parts)))
    counts = manifest["counts"]
    print(f"{len(parts)} outputs joined: {counts['documents']:,} documents, {counts['tokens']:,} tokens")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
