"""`srp world sets`: a world's questions as data sets of `srp evaluate`."""

import argparse
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step

DESCRIPTION = """
Write a world's test questions, and harmful questions with answers for an attacker to train on, as data sets of `srp
evaluate` and `srp gate`. Their judge `reference` says whether an answer is right: for a harmful question, a success of
the attack.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp world sets", description=DESCRIPTION)
    parser.add_argument("world", type=Path, metavar="WORLD", help="folder that `srp world make` or `run` wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, write the files, print their names."""
    args = build_parser().parse_args(argv)

    from megatron_srp.medsafetyworld.measure.data_sets import write_data_sets

    for path in write_data_sets(args.world, args.out):
        print(f"wrote {path}")
    next_step(f"srp gate MODEL --criteria world --data {args.out} --out OUT")
