#!/usr/bin/env python3
"""Print conversations of a shard made by augment_sft.py, with the tokens that are learned in green (or in ⟦ ⟧)."""

import sys

from megatron_srp.errors import CommandParser, InputError, UsageError, run_command


def main(argv: list[str]) -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("prefix", metavar="PREFIX", help="of the shard, such as out/chat_sft")
    parser.add_argument("--index", type=int, default=0, metavar="I", help="the first to show, from 0 (default: 0)")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="how many to show (default: 1)")
    parser.add_argument("--no-color", action="store_true", help="brackets, as where the output is no terminal")
    parser.add_argument("--tokenizer-model", metavar="PATH", help="where the tokenizer is now, if it was moved")
    args = parser.parse_args(argv)

    from megatron_srp.sft.shard import SftShard, find_sft_manifest
    from megatron_srp.sft.show import sample_tokenizer, show_sample

    shard, manifest = SftShard(args.prefix), find_sft_manifest(args.prefix)
    if manifest is None:
        raise InputError(f"{args.prefix}: no .srp.json beside it names it as conversations; see tools/augment_sft.py")
    if not 0 <= args.index < len(shard) or args.count < 1:
        raise UsageError(f"--index {args.index} --count {args.count}: there are {len(shard)}, from 0")
    tokenizer = sample_tokenizer(manifest, args.tokenizer_model)
    for i in range(args.index, min(args.index + args.count, len(shard))):
        ids, mask = shard[i]
        print(f"--- {i}: {len(ids)} tokens, {int(mask.sum())} learned")
        print(show_sample(ids, mask, tokenizer, sys.stdout.isatty() and not args.no_color))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
