"""`srp bench dataloader`: what a training step waits for."""

import argparse
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step, require_at_least

DESCRIPTION = "How long a training step waits for its batch: Megatron's own loader compared with --srp-dataloader dali."


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp bench dataloader", description=DESCRIPTION)
    add = parser.add_argument
    add("--data-path", type=Path, metavar="PREFIX", help="a shard (default: a new one of random tokens)")
    add("--seq-length", type=int, default=2048, metavar="N", help="tokens per sequence")
    add("--micro-batch-size", type=int, default=4, metavar="N", help="sequences per batch")
    add("--num-workers", type=int, default=2, metavar="N", help="worker processes")
    add("--step-ms", type=float, default=20.0, metavar="MS", help="how long a step computes, in milliseconds")
    add("--steps", type=int, default=100, metavar="N", help="steps of a run")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, measure, print the table."""
    args = build_parser().parse_args(argv)
    require_at_least(1, args, "--seq-length", "--micro-batch-size", "--steps")

    from megatron_srp.benchmarks.dataloader import Settings, compare, table
    from megatron_srp.training.datasets.dali import check_installed

    check_installed()
    settings = Settings(args.seq_length, args.micro_batch_size, args.num_workers, args.step_ms, args.steps)
    print(table(settings, compare(settings, args.data_path)))
    next_step("srp train --srp-dataloader megatron|dali ... trains with the faster one")
