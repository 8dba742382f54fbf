"""`srp train`: Megatron's trainer on shards with reflections. Under torchrun: `-m megatron_srp train`.

With `--async-save` the process that writes checkpoints imports the main module again; neither that nor this file
imports anything heavy.
"""

import argparse

from megatron_srp.cli.parser import Parser

DESCRIPTION = """
Pretrain or post-train with Megatron's own trainer, on one or many GPUs, or on the CPU over gloo where no GPU is
visible (for demos and tests):

  torchrun --nproc-per-node 2 -m megatron_srp train --srp-preset debug --data-path out/corpus_text_document \\
      --train-iters 30 --load out/checkpoints --save out/checkpoints

The flags below are this project's; every flag of Megatron works too, and overrides a preset's.
`python -m megatron_srp.training.pretrain --help` lists them all.
"""


def build_parser() -> argparse.ArgumentParser:
    """This project's flags; Megatron's parser has the others."""
    from megatron_srp.training.flags.srp_flags import add_srp_arguments

    parser = Parser(
        prog="srp train",
        usage="[torchrun ...] -m megatron_srp train [flags of this project and of Megatron]",
        description=DESCRIPTION,
    )
    add_srp_arguments(parser)
    return parser


def main(argv: list[str]) -> None:
    """Train as `argv` says; a rank that fails ends the process itself."""
    if {"-h", "--help"} & set(argv):
        build_parser().print_help()
        return

    from megatron_srp.training.pretrain import main as train

    train(argv)
