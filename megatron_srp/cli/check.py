"""`srp check`: what works here."""

import argparse

from megatron_srp.cli import Command, dispatch
from megatron_srp.cli.tree import tree_parser

COMMANDS = {
    "environment": Command("check_environment", "commands", "the training stack on this machine (the default)"),
    "cluster": Command("check_cluster", "commands", "the nodes of a run, before it starts"),
    "checkpoint": Command("check_checkpoint", "commands", "checkpoints of a training, read to their last byte"),
}


def build_parser() -> argparse.ArgumentParser:
    return tree_parser("srp check", COMMANDS)


def main(argv: list[str]) -> int | None:
    """Run the subcommand that `argv` begins with. Returns the exit code."""
    return dispatch("srp check", COMMANDS, argv, default="environment")
