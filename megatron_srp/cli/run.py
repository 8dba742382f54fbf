"""`srp run`: any Megatron script, unchanged, on data with reflections. Under torchrun: `-m megatron_srp.run`."""

import argparse

from megatron_srp.cli.parser import Parser

DESCRIPTION = """
Run a script that trains with Megatron, such as Megatron-LM's pretrain_gpt.py or your own, unchanged, on data with
reflections. A data path may be a sidecar, and the flags below are added to the script's own:

  torchrun --nproc-per-node 2 -m megatron_srp.run pretrain_gpt.py --data-path 0.7 out/w200.srp 0.3 out/plain_text ...

Where no GPU is visible it runs on the CPU over gloo. A program that does not parse Megatron's flags needs no more than
`megatron_srp.register()` before it builds its datasets.
"""


def build_parser() -> argparse.ArgumentParser:
    """This project's flags; the script has the others."""
    from megatron_srp.training.flags.run_flags import add_run_arguments
    from megatron_srp.training.host.run import USAGE

    parser = Parser(prog="srp run", usage=USAGE, description=DESCRIPTION)
    parser.add_argument("script", metavar="SCRIPT", help="Path of the script; its flags follow.")
    add_run_arguments(parser)
    return parser


def main(argv: list[str]) -> None:
    """Run the script; a rank that fails ends the process itself."""
    if argv[:1] in (["-h"], ["--help"]):
        build_parser().print_help()
        return

    from megatron_srp.training.host.run import main as run

    run(argv)
