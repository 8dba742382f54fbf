"""`srp strip`: reflected shards back to plain ones."""

import argparse

from megatron_srp.cli import work_folder
from megatron_srp.cli.parser import Parser, next_step, on_disk_or_s3
from megatron_srp.data.shards.prefix import output_prefix

DESCRIPTION = "Turn reflected shards back into the plain ones they were made from."


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp strip", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "prefix",
        type=on_disk_or_s3,
        metavar="PREFIX",
        help="the --output-prefix of the reflected shards (PREFIX.srp.json), or s3://BUCKET/FOLDER/NAME",
    )
    add(
        "output_prefix",
        type=lambda given: output_prefix(on_disk_or_s3(given)),
        metavar="OUT",
        help="prefix of the plain shards to write, or s3://BUCKET/FOLDER/NAME",
    )
    add("--overwrite", action="store_true", help="replace existing output")
    work_folder.add_work_dir(parser)
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, strip, print what was written."""
    args = build_parser().parse_args(argv)

    from megatron_srp.data.preprocess.summary import print_files
    from megatron_srp.data.shards.strip import strip_reflections

    out = args.output_prefix
    with work_folder.reading(args.work_dir, args.prefix, out) as folder:
        args.work_dir = str(folder)  # what is for S3 is made there too: it is made again sooner than it is sent
        upload = work_folder.shard_upload(args, None)
        name = work_folder.fetch_output(args.prefix, folder)
        manifest = strip_reflections(name, args.output_prefix, args.overwrite)
        counts = manifest["counts"]
        print(f"{counts['documents']:,} documents, {counts['tokens']:,} tokens without reflections")
        if upload:
            upload.publish()
            print(f"wrote them to {out}")
        else:
            print_files(args.output_prefix, manifest)
    next_step(f"srp verify {out} checks them")
