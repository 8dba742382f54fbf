"""`srp strip`: reflected shards back to plain ones."""

import argparse

from megatron_srp.cli.parser import Parser, next_step, on_disk
from megatron_srp.data.shards.prefix import output_prefix

DESCRIPTION = "Turn reflected shards back into the plain ones they were made from."


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp strip", description=DESCRIPTION)
    add = parser.add_argument
    add("prefix", type=on_disk, metavar="PREFIX", help="the --output-prefix of the reflected shards (PREFIX.srp.json)")
    add(
        "output_prefix",
        type=lambda given: output_prefix(on_disk(given)),
        metavar="OUT",
        help="prefix of the plain shards to write",
    )
    add("--overwrite", action="store_true", help="replace existing output")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, strip, print what was written."""
    args = build_parser().parse_args(argv)

    from megatron_srp.data.preprocess.summary import print_files
    from megatron_srp.data.shards.strip import strip_reflections

    manifest = strip_reflections(args.prefix, args.output_prefix, args.overwrite)
    counts = manifest["counts"]
    print(f"{counts['documents']:,} documents, {counts['tokens']:,} tokens without reflections")
    print_files(args.output_prefix, manifest)
    next_step(f"srp verify {args.output_prefix} checks them")
