"""`srp bench`: benchmarks."""

import argparse

from megatron_srp.cli import Command, dispatch
from megatron_srp.cli.tree import tree_parser

COMMANDS = {
    "run": Command("bench_run", "commands", "measure sections of BENCHMARKS.md (the default: all of them)"),
    "guard": Command("bench_guard", "commands", "measure a guard's engine on this machine's GPU"),
    "dataloader": Command("bench_dataloader", "commands", "measure how long a training step waits for its batch"),
}


def build_parser() -> argparse.ArgumentParser:
    return tree_parser("srp bench", COMMANDS)


def main(argv: list[str]) -> int | None:
    """Run the subcommand that `argv` begins with. Returns the exit code."""
    return dispatch("srp bench", COMMANDS, argv, default="run")
