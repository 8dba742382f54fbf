"""`srp verify`: finished shards checked for damage."""

import argparse

from megatron_srp.cli.corpus_flags import TOKENIZER_TYPES
from megatron_srp.cli.parser import Parser, next_step, on_disk

DESCRIPTION = """
Check finished shards: indices, offsets, tokens, reflections, counts and checksums. Exit code 0: clean; 2: damaged.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp verify", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "prefix",
        type=on_disk,
        metavar="PREFIX",
        help="the --output-prefix of the shards, or the prefix of one .bin and .idx",
    )
    add("--quick", action="store_true", help="skip the tokens and the checksums")
    add(
        "--tokenizer-type",
        choices=TOKENIZER_TYPES,
        default="HuggingFaceTokenizer",
        help="with --tokenizer-model: its type, as for Megatron",
    )
    add("--tokenizer-model", metavar="PATH", help="where the tokenizer is now (default: where the manifest says)")
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, check, print findings. Returns the exit code."""
    args = build_parser().parse_args(argv)

    from megatron_srp.data.verify.shards import verify_shards
    from megatron_srp.tokenization import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer_type, args.tokenizer_model) if args.tokenizer_model else None
    check = verify_shards(args.prefix, args.quick, tokenizer)
    for line in check.shards:
        print(line)
    for line in check.findings.unchecked:
        print(f"not checked: {line}")
    for line in check.findings.lines():
        print(f"damaged: {line}")
    if check.findings:
        print(f"{len(check.findings):,} findings")
        next_step("srp preprocess --overwrite ... writes them again, with the settings that their .srp.json states")
        return 2
    print("no damage found")
    next_step(f"srp inspect {args.prefix} shows the verdicts; srp train --data-path SHARD ... trains on them")
    return 0
