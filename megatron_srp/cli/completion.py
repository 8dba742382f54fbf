"""`srp completion`: a script that completes commands and flags in the shell, made by shtab."""

import argparse

from megatron_srp.cli import COMMANDS
from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.cli.tree import tree_parser

DESCRIPTION = """
Print a script that completes srp's commands and flags:

  srp completion bash > ~/.local/share/bash-completion/completions/srp
  srp completion zsh > ~/.zfunc/_srp        (with ~/.zfunc in $fpath)
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp completion", description=DESCRIPTION)
    parser.add_argument("shell", choices=["bash", "zsh"], help="the shell")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, and print the script."""
    args = build_parser().parse_args(argv)

    import shtab

    print(shtab.complete(tree_parser("srp", COMMANDS), shell=args.shell))
    next_step("start a new shell; srp and the Tab key show the commands", to_stderr=True)
