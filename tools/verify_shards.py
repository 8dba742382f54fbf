#!/usr/bin/env python3
"""Check finished shards: indices, offsets, tokens, reflections, counts and checksums. Exit 0: clean; 2: damaged."""

import sys

from megatron_srp.errors import CommandParser, run_command


def main(argv: list[str]) -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("prefix", help="the --output-prefix of the shards, or the prefix of one shard's .bin and .idx")
    parser.add_argument("--quick", action="store_true", help="read neither tokens nor checksums")
    parser.add_argument("--tokenizer-type", default="HuggingFaceTokenizer", metavar="TYPE")
    parser.add_argument("--tokenizer-model", metavar="PATH", help="where the tokenizer is now, if it was moved")
    args = parser.parse_args(argv)

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
    print(f"{len(check.findings):,} findings" if check.findings else "no damage found")
    return 2 if check.findings else 0


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
