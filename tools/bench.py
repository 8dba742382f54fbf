#!/usr/bin/env python3
"""Measure side by side and write the figures into BENCHMARKS.md, a section for each benchmark."""

import sys
from importlib import import_module
from pathlib import Path

from megatron_srp.benchmarks import SECTIONS
from megatron_srp.errors import CommandParser, UsageError, did_you_mean, run_command


def main(argv: list[str]) -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("BENCHMARKS.md"), help="file to write into")
    parser.add_argument("--quick", action="store_true", help="small input, one run: to try the benchmark itself")
    parser.add_argument("--corpus", type=Path, nargs="+", default=[], help="files of real text (default: made up)")
    parser.add_argument(
        "--tokenizers", type=Path, nargs="+", default=[], help="to measure with (default: one is trained)"
    )
    args = parser.parse_args(argv)
    for name in args.sections:
        if name not in SECTIONS:
            raise UsageError(f"no benchmark {name!r}; {did_you_mean(name, list(SECTIONS))}")

    from megatron_srp.benchmarks import Options
    from megatron_srp.benchmarks.sections import write_section

    options = Options(args.quick, args.corpus, args.tokenizers)
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


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
