#!/usr/bin/env python3
"""Measure a guard's engine: content tokens a second, beside the device's arithmetic bound.

Random weights of Qwen3-0.6B's shape and random ids, so that a machine with PyTorch and transformers is
enough; run it there from the repository with PYTHONPATH=. and no installation.
"""

import argparse
import itertools
import sys
from pathlib import Path

from megatron_srp.errors import CommandParser, UsageError, run_command


def parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--engine", default="hf", help="hf or vllm (default: hf)")
    parser.add_argument(
        "--engine-option", action="append", default=[], metavar="NAME=VALUE", help="as tools/annotate.py"
    )
    parser.add_argument("--device", metavar="NAME", help="cuda, cuda:1 or cpu (default: a GPU where there is one)")
    parser.add_argument(
        "--batch-tokens", nargs="+", type=int, default=[None], metavar="N", help="measure each of these"
    )
    parser.add_argument("--compile", nargs="+", choices=["no", "yes"], default=["no"], help="measure each of these")
    parser.add_argument(
        "--interval", nargs="+", type=int, default=[100], metavar="WORDS", help="segment lengths to measure"
    )
    parser.add_argument(
        "--mix", choices=["natural", "fixed"], default="natural", help="lengths as in prose, or all equal"
    )
    parser.add_argument("--segments", type=int, default=8_192, metavar="N", help="segments in a run")
    parser.add_argument(
        "--unsafe", type=float, default=2.0, metavar="PERCENT", help="share that gets categories written"
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="timed runs, after one to warm up")
    parser.add_argument("--layers", type=int, default=28, metavar="N", help="fewer, to try it on a small machine")
    parser.add_argument("--profile", action="store_true", help="show where the time goes, and measure nothing")
    parser.add_argument("--out", type=Path, default=Path("bench_guard"), metavar="PREFIX", help="writes .json and .md")
    args = parser.parse_args(argv)
    if min(args.segments, args.runs, args.layers, *args.interval) < 1 or not 0 <= args.unsafe <= 100:
        raise UsageError("--segments, --runs, --layers and --interval must be at least 1, --unsafe between 0 and 100")
    return args


def main(argv: list[str]) -> None:
    args = parse(argv)

    from megatron_srp.benchmarks.guard_gpu import Workload, measure, profile, to_markdown, write_results
    from megatron_srp.cli.guard_flags import engine_options

    results = []
    for interval, tokens, compiled in itertools.product(args.interval, args.batch_tokens, args.compile):
        given = {"device": args.device, "batch_tokens": tokens, "compile": compiled == "yes" or None}
        options = engine_options(args.engine_option) | {name: value for name, value in given.items() if value}
        work = Workload(args.segments, interval, mix=args.mix, unsafe=args.unsafe)
        if args.profile:
            print(profile(args.engine, options, work, args.layers))
            continue
        results.append(measure(args.engine, options, work, args.layers, args.runs))
        write_results(results, args.out)  # after each, so that a cut run leaves what it had
    if results:
        print(to_markdown(results))
        print(f"wrote {args.out.with_suffix('.json')} and {args.out.with_suffix('.md')}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
