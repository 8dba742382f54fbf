"""`srp verify`: finished shards checked for damage."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.cli import work_folder
from megatron_srp.cli.corpus_flags import TOKENIZER_TYPES
from megatron_srp.cli.parser import Parser, next_step, on_disk_or_s3
from megatron_srp.remote.objects import url_of

if TYPE_CHECKING:
    from megatron_srp.data.verify.shards import Verification

DESCRIPTION = """
Check finished shards: indices, offsets, tokens, reflections, counts and checksums. Exit code 0: clean; 2: damaged.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp verify", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "prefix",
        type=on_disk_or_s3,
        metavar="PREFIX",
        help="the --output-prefix of the shards, also s3://BUCKET/FOLDER/NAME; on a disk also of one .bin and .idx",
    )
    add("--quick", action="store_true", help="skip the tokens and the checksums")
    add(
        "--tokenizer-type",
        choices=TOKENIZER_TYPES,
        default="HuggingFaceTokenizer",
        help="with --tokenizer-model: its type, as for Megatron",
    )
    add("--tokenizer-model", metavar="PATH", help="where the tokenizer is now (default: where the manifest says)")
    work_folder.add_work_dir(parser)
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, check, print findings. Returns the exit code."""
    args = build_parser().parse_args(argv)

    from megatron_srp.data.verify.shards import verify_shards
    from megatron_srp.tokenization import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer_type, args.tokenizer_model) if args.tokenizer_model else None
    findings = 0
    with work_folder.reading(args.work_dir, args.prefix) as folder:
        names = work_folder.fetch_outputs([args.prefix], folder)
        work_folder.fetch_plain_shards(names, folder)
        for name in names:
            check = verify_shards(name, args.quick, tokenizer)
            _print(check, folder)
            findings += len(check.findings)
    if findings:
        print(f"{findings:,} findings")
        next_step("srp preprocess --overwrite ... writes them again, with the settings that their .srp.json states")
        return 2
    print("no damage found")
    one = args.prefix if len(names) == 1 else url_of(names[-1], folder)
    next_step(f"srp inspect {one} shows the verdicts, if it has any; srp train --data-path SHARD ...")
    return 0


def _print(check: "Verification", folder: Path) -> None:
    lines = [*check.shards, *(f"not checked: {line}" for line in check.findings.unchecked)]
    lines += [f"damaged: {line}" for line in check.findings.lines()]
    for line in lines:
        print(work_folder.with_urls(line, folder))
