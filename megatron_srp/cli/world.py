"""`srp world`: MedSafetyWorld, the paper's controlled experiment."""

import argparse

from megatron_srp.cli import Command, dispatch
from megatron_srp.cli.tree import tree_parser

COMMANDS = {
    "make": Command("world_make", "commands", "make a world: corpus, ground-truth labels, fine-tuning and test sets"),
    "sets": Command("world_sets", "commands", "write a world's questions as data sets of srp evaluate"),
    "run": Command("world_run", "commands", "run the whole experiment: worlds, trainings, attacks, a report"),
    "report": Command("world_report", "commands", "report what a run has finished so far"),
}


def build_parser() -> argparse.ArgumentParser:
    return tree_parser("srp world", COMMANDS)


def main(argv: list[str]) -> int | None:
    """Run the subcommand that `argv` begins with. Returns the exit code."""
    return dispatch("srp world", COMMANDS, argv)
