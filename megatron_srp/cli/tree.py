"""The parser of a command with subcommands, built from theirs: for completion and the documentation."""

import argparse
from collections.abc import Mapping
from typing import Any

from megatron_srp.cli import Command, load
from megatron_srp.cli.parser import Parser


def tree_parser(prog: str, commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """A parser with a subparser for each command, which is the command's parser."""

    def parser_of(*, prog: str, **settings: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = load(commands[prog.rpartition(" ")[2]]).build_parser()
        return parser

    parser = Parser(prog=prog)
    subparsers = parser.add_subparsers(metavar="NAME", parser_class=parser_of)  # type: ignore[call-overload]
    for name, command in commands.items():
        subparsers.add_parser(name, help=command.help)
    return parser
