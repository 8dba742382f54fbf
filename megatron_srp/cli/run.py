"""`srp run`: any Megatron script, unchanged, on data with reflections. Under torchrun: `-m megatron_srp.run`."""

import argparse
import os

from megatron_srp.cli.parser import Parser, next_step

DESCRIPTION = """
Run a script that trains with Megatron, such as Megatron-LM's pretrain_gpt.py or your own, unchanged, on data with
reflections. A data path may be a sidecar, and the flags below are added to the script's own:

  srp run --nproc-per-node 2 pretrain_gpt.py --data-path 0.7 out/w200.srp 0.3 out/plain_text ...

Where no GPU is visible it runs on the CPU over gloo. A program that does not parse Megatron's flags only has to
call `megatron_srp.register()` before it builds its datasets.
"""


def build_parser() -> argparse.ArgumentParser:
    """This project's flags; the script has the others."""
    from megatron_srp.training.flags.rank_flags import add_rank_flags
    from megatron_srp.training.flags.run_flags import add_run_arguments
    from megatron_srp.training.host.run import USAGE

    parser = Parser(prog="srp run", usage=USAGE, description=DESCRIPTION)
    parser.add_argument("script", metavar="SCRIPT", help="Path of the script; its flags follow.")
    add_run_arguments(add_rank_flags(parser))
    return parser


def main(argv: list[str]) -> int:
    """Run the script. Returns the exit code; a rank that fails ends the process itself."""
    if argv[:1] in (["-h"], ["--help"]):
        build_parser().print_help()
        return 0

    from megatron_srp.training.flags.rank_flags import split_rank_flags
    from megatron_srp.training.host.run import find_script
    from megatron_srp.training.host.run import main as run

    ranks, command = split_rank_flags(argv)
    find_script(command)
    if ranks is not None:
        from megatron_srp.training.launch import start

        return start(ranks, ["-m", "megatron_srp.run", *command])
    run(command)
    if os.environ.get("RANK", "0") == "0":
        next_step("srp export DIR MODEL makes a Hugging Face model of what it saved in DIR")
    return 0
