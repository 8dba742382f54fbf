"""`srp bench run`: sections of BENCHMARKS.md, measured side by side."""

import argparse
from importlib import import_module
from pathlib import Path

from megatron_srp.benchmarks import SECTIONS
from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import UsageError, did_you_mean

DESCRIPTION = "Run benchmarks, and write their figures into BENCHMARKS.md, a section for each."


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp bench run", description=DESCRIPTION)
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION", help=f"any of {', '.join(SECTIONS)} (default: all)")
    add("--out", type=Path, default=Path("BENCHMARKS.md"), metavar="FILE", help="file to write into")
    add("--quick", action="store_true", help="small input and one run, to test the benchmark itself")
    add("--corpus", type=Path, nargs="+", default=[], metavar="FILE", help="files of real text (default: made-up text)")
    add(
        "--tokenizers",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="tokenizers to measure with (default: those that tests/real/fetch.sh has fetched, else one is trained)",
    )
    add("--size", type=int, default=1000, metavar="N", help="for data and cascade: megabytes of the corpus")
    add("--runs", type=int, default=5, metavar="N", help="for data: runs of each command")
    add(
        "--prompts",
        nargs="+",
        default=[],
        metavar="FORMAT:PATH",
        help="for cascade: labelled prompts (no default)",
    )
    add("--encoder", type=Path, metavar="DIR", help="for cascade: folder of an encoder (no default)")
    add("--model", type=Path, metavar="DIR", help="for generation: folder of a model (default: random weights)")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, measure, print what was written."""
    args = build_parser().parse_args(argv)
    require_at_least(1, args, "--size", "--runs")
    for name in args.sections:
        if name not in SECTIONS:
            raise UsageError(f"no benchmark {name!r}; {did_you_mean(name, list(SECTIONS))}")

    from megatron_srp.benchmarks import Options
    from megatron_srp.benchmarks.sections import write_section

    size = args.size * 1_000_000
    options = Options(args.quick, args.corpus, args.tokenizers, size, args.runs, args.prompts, args.encoder, args.model)
    for name in args.sections or SECTIONS:
        module, _, function = SECTIONS[name].partition(":")
        try:
            write_section(getattr(import_module(module), function)(options), args.out)
        except UsageError as error:
            if args.sections:
                raise
            print(f"left out section {name!r}: {error}")
        else:
            print(f"wrote section {name!r} of {args.out}")
    next_step("srp bench guard and srp bench dataloader measure a GPU's share")
