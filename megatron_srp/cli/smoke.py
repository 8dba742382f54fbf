"""`srp smoke`: a small job from end to end."""

import argparse
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step, require_at_least

DESCRIPTION = """
Run a small job end to end on this machine's CPU: a small corpus, reflections, Megatron's trainer on two ranks, a
report. It takes about a minute on two idle cores.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp smoke", description=DESCRIPTION)
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/smoke"), metavar="DIR", help="folder to write to, emptied first")
    add("--documents", type=int, default=1500, metavar="N", help="documents of the corpus")
    add("--steps", type=int, default=180, metavar="N", help="training steps")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, and run the job."""
    args = build_parser().parse_args(argv)
    require_at_least(1, args, "--documents", "--steps")

    from megatron_srp.smoke import smoke

    smoke(args.out, args.documents, args.steps)
    next_step(f"srp inspect {args.out}/corpus shows the corpus; docs/guides/post-train.md continues with the model")
