"""`srp show`: conversations of a post-training shard, with the tokens that carry loss."""

import argparse
import sys

from megatron_srp.cli.parser import Parser, next_step, on_disk
from megatron_srp.errors import InputError, UsageError

DESCRIPTION = "Print conversations of a shard made by `srp sft`, with the tokens that carry loss in green (or in ⟦ ⟧)."


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp show", description=DESCRIPTION)
    add = parser.add_argument
    add("prefix", type=on_disk, metavar="PREFIX", help="prefix of the shard, such as out/chat_sft")
    add("--index", type=int, default=0, metavar="I", help="first conversation to show, counted from 0 (default: 0)")
    add("--count", type=int, default=1, metavar="N", help="conversations to show")
    add(
        "--no-color",
        action="store_true",
        help="mark with ⟦ ⟧ instead of color (default: only where stdout is not a terminal)",
    )
    add("--tokenizer-model", metavar="PATH", help="where the tokenizer is now (default: where the manifest says)")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, and print."""
    args = build_parser().parse_args(argv)

    from megatron_srp.data.training_tokenizer import recorded_tokenizer
    from megatron_srp.sft.shard import SftShard, find_sft_manifest
    from megatron_srp.sft.show import show_sample

    shard, manifest = SftShard(args.prefix), find_sft_manifest(args.prefix)
    if manifest is None:
        raise InputError(f"{args.prefix}: no .srp.json that describes conversations; make the shard with srp sft")
    if not 0 <= args.index < len(shard) or args.count < 1:
        raise UsageError(f"--index {args.index} --count {args.count}: the shard has {len(shard)} conversations, from 0")
    tokenizer = recorded_tokenizer(manifest["tokenizer"], args.tokenizer_model)
    for i in range(args.index, min(args.index + args.count, len(shard))):
        ids, mask = shard[i]
        print(f"--- {i}: {len(ids)} tokens, {int(mask.sum())} learned")
        print(show_sample(ids, mask, tokenizer, sys.stdout.isatty() and not args.no_color))
    next_step(f"srp train --srp-sft {args.prefix} --pretrained-checkpoint DIR ...")
