"""`srp bench guard`: a guard's engine, measured."""

import argparse
import itertools
from pathlib import Path

from megatron_srp.cli.guard_flags import ENGINES, engine_options
from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import UsageError

DESCRIPTION = """
Measure a guard's engine: content tokens per second, with the device's arithmetic bound.

The model has Qwen3-0.6B's shape with random weights, and reads random ids, so that a machine with PyTorch and
transformers is enough. From a checkout it runs without installation: `PYTHONPATH=. python -m megatron_srp bench guard`.
"""


def build_parser() -> argparse.ArgumentParser:
    old_names = {"--engine": "--guard-engine", "--engine-option": "--guard-option"}
    parser = Parser(prog="srp bench guard", description=DESCRIPTION, old_names=old_names)
    add = parser.add_argument_group("engine").add_argument
    add("--guard-engine", choices=ENGINES[:2], default="hf", help="transformers or vLLM")
    add(
        "--guard-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="as for `srp annotate`; may be repeated (default: none)",
    )
    add("--device", metavar="NAME", help="cuda, cuda:1 or cpu (default: a GPU where there is one)")
    add = parser.add_argument_group("what is measured, in each combination").add_argument
    add(
        "--batch-tokens",
        nargs="+",
        type=int,
        default=[None],
        metavar="N",
        help="tokens per batch (default: the engine's)",
    )
    add(
        "--compile", nargs="+", choices=["no", "yes"], default=["no"], help="whether to compile the model (default: no)"
    )
    add("--interval", nargs="+", type=int, default=[100], metavar="WORDS", help="words per segment (default: 100)")
    add = parser.add_argument_group("workload").add_argument
    add("--mix", choices=["natural", "fixed"], default="natural", help="segment lengths as in prose, or all equal")
    add("--segments", type=int, default=8_192, metavar="N", help="segments per run")
    add("--unsafe", type=float, default=2.0, metavar="PERCENT", help="percentage of unsafe segments")
    add("--runs", type=int, default=5, metavar="N", help="timed runs, after one warm-up run")
    add("--layers", type=int, default=28, metavar="N", help="layers of the model; fewer for a small machine")
    add = parser.add_argument_group("output").add_argument
    add("--profile", action="store_true", help="profile where the time goes, instead of measuring")
    add("--out", type=Path, default=Path("bench_guard"), metavar="PREFIX", help="write PREFIX.json and PREFIX.md")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, measure, print the table."""
    args = build_parser().parse_args(argv)
    require_at_least(1, args, "--segments", "--runs", "--layers")
    if min(args.interval) < 1:
        raise UsageError(f"--interval {min(args.interval)}: pass a number of at least 1")
    if not 0 <= args.unsafe <= 100:
        raise UsageError(f"--unsafe {args.unsafe:g}: pass a percentage from 0 to 100")

    from megatron_srp.benchmarks.guard_gpu import Workload, measure, profile, to_markdown, write_results

    results = []
    for interval, tokens, compiled in itertools.product(args.interval, args.batch_tokens, args.compile):
        given = {"device": args.device, "batch_tokens": tokens, "compile": compiled == "yes" or None}
        options = engine_options(args.guard_option) | {name: value for name, value in given.items() if value}
        work = Workload(args.segments, interval, mix=args.mix, unsafe=args.unsafe)
        if args.profile:
            print(profile(args.guard_engine, options, work, args.layers))
            continue
        results.append(measure(args.guard_engine, options, work, args.layers, args.runs))
        write_results(results, args.out)  # after each, so that an interrupted run keeps its results
    if results:
        print(to_markdown(results))
        print(f"wrote {args.out.with_suffix('.json')} and {args.out.with_suffix('.md')}")
        next_step(
            f"srp annotate --guard-engine {args.guard_engine} --guard-option ... with the options of the fastest row"
        )
