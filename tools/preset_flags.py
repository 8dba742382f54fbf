#!/usr/bin/env python3
"""Print a preset's Megatron flags for a number of H100s, with the memory they need and why this layout."""

import sys

from megatron_srp.errors import CommandParser, UsageError, did_you_mean, run_command


def main(argv: list[str]) -> None:
    from megatron_srp.training.flags.precision import PRECISIONS
    from megatron_srp.training.flags.presets import PRESETS

    parser = CommandParser(description=__doc__)
    parser.add_argument("preset", metavar="PRESET", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--gpus", type=int, default=8, help="H100s with 80 GB (default: 8)")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="bf16", help="number format (default: bf16)")
    parser.add_argument("--seq-length", type=int, help="tokens (default: the preset's)")
    args = parser.parse_args(argv)
    if args.preset not in PRESETS:
        raise UsageError(f"unknown preset {args.preset!r}; {did_you_mean(args.preset, list(PRESETS))}")
    for flag, number in (("--gpus", args.gpus), ("--seq-length", args.seq_length)):
        if number is not None and number < 1:
            raise UsageError(f"{flag} {number}: 1 or more are needed")

    from megatron_srp.training.layout.describe_preset import describe

    print(describe(PRESETS[args.preset], args.gpus, args.precision, args.seq_length))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
