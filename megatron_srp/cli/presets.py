"""`srp presets`: the model sizes, and the flags, memory and layout of one."""

import argparse

from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.training.flags.precision import PRECISIONS
from megatron_srp.training.flags.presets import PRESETS

DESCRIPTION = """
Print a model size's Megatron flags for a number of H100s, with the memory they need and why this layout. Without
PRESET, list the sizes.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp presets", description=DESCRIPTION)
    add = parser.add_argument
    add("preset", nargs="?", metavar="PRESET", help=f"one of {', '.join(PRESETS)} (default: list them)")
    add("--gpus", type=int, default=8, metavar="N", help="number of H100s, with 80 GB each")
    add("--precision", choices=list(PRECISIONS), default="bf16", help="number format, as --srp-precision in training")
    add("--seq-length", type=int, metavar="N", help="tokens per sequence (default: the preset's)")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, and print."""
    args = build_parser().parse_args(argv)
    require_at_least(1, args, "--gpus", "--seq-length")

    from megatron_srp.training.layout.describe_preset import describe, list_presets

    if args.preset is None:
        print(list_presets())
        next_step("srp presets NAME --gpus N prints its flags")
        return
    if args.preset not in PRESETS:
        raise UsageError(f"unknown preset {args.preset!r}; {did_you_mean(args.preset, list(PRESETS))}")
    print(describe(PRESETS[args.preset], args.gpus, args.precision, args.seq_length))
    flags = f"--srp-preset {args.preset} --srp-layout auto --srp-precision {args.precision}"
    next_step(f"srp train {flags} --srp-dry-run {args.gpus} checks them without a GPU")
