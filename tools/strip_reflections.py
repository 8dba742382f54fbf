#!/usr/bin/env python3
"""Turn reflected shards back into the plain ones they were made from."""

import sys

from megatron_srp.data.shards.prefix import output_prefix
from megatron_srp.errors import CommandParser, run_command


def main(argv: list[str]) -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("prefix", help="the --output-prefix of the reflected shards (PREFIX.srp.json)")
    parser.add_argument("output_prefix", type=output_prefix, help="prefix of the plain shards to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args(argv)

    from megatron_srp.data.shards.strip import strip_reflections

    manifest = strip_reflections(args.prefix, args.output_prefix, args.overwrite)
    counts = manifest["counts"]
    print(f"{counts['documents']:,} documents, {counts['tokens']:,} tokens without reflections")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
