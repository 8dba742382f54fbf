#!/usr/bin/env python3
"""How long a training step waits for its batch: Megatron's own loader against --srp-dataloader dali."""

import sys
from pathlib import Path

from megatron_srp.errors import CommandParser, run_command


def main(argv: list[str]) -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--data-path", type=Path, metavar="PREFIX", help="a shard (default: one of random tokens)")
    parser.add_argument("--seq-length", type=int, default=2048, metavar="N", help="tokens in a sequence")
    parser.add_argument("--micro-batch-size", type=int, default=4, metavar="N", help="sequences in a batch")
    parser.add_argument("--num-workers", type=int, default=2, metavar="N", help="worker processes")
    parser.add_argument("--step-ms", type=float, default=20.0, metavar="MS", help="how long a step computes")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="steps of a run")
    args = parser.parse_args(argv)

    from megatron_srp.benchmarks.dataloader import Settings, compare, table
    from megatron_srp.training.datasets.dali import check_installed

    check_installed()
    settings = Settings(args.seq_length, args.micro_batch_size, args.num_workers, args.step_ms, args.steps)
    print(table(settings, compare(settings, args.data_path)))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
