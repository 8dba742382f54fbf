"""`srp check checkpoint`: a training's checkpoints, read to their last byte."""

import argparse
import sys
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step

DESCRIPTION = """
Verify checkpoints: the metadata, the size of every file, and the checksum of every tensor, which loading does not
check. Exit code 0: whole; 2: damaged, with a line for each problem.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp check checkpoint", description=DESCRIPTION)
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="a run's --save folder, or one of its iter_* folders"
    )
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, verify, print. Returns the exit code."""
    folder = build_parser().parse_args(argv).folder

    from megatron_srp.training.checks.verify_checkpoint import checkpoints_in, verify_checkpoint

    damaged = False
    for checkpoint in checkpoints_in(folder):
        found = verify_checkpoint(checkpoint)
        for problem in found.problems:
            print(f"error: {checkpoint}: {problem}", file=sys.stderr)
        if not found.problems:
            print(f"{checkpoint}: whole, {found.num_tensors:,} parts, {found.num_bytes / 1e6:,.1f} MB")
        damaged |= bool(found.problems)
    if damaged:
        return 2
    next_step("srp train --load FOLDER resumes from the newest, srp export FOLDER MODEL makes a Hugging Face model")
    return 0
