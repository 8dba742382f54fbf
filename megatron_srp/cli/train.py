"""`srp train`: Megatron's trainer on shards with reflections.

It starts the ranks, or is one of them: with --nproc-per-node, started by torchrun, or alone. With `--async-save` the
process that writes checkpoints imports the main module again; neither that nor this file imports anything heavy.
"""

import argparse
import os

from megatron_srp.cli.parser import Parser, next_step

DESCRIPTION = """
Pretrain or post-train with Megatron's own trainer, on one or many GPUs, or on the CPU over gloo where no GPU is
visible (for demos and tests). The same command resumes a stopped run:

  srp train --nproc-per-node 2 --srp-preset debug --data-path out/corpus_text_document \\
      --train-iters 30 --load out/checkpoints --save out/checkpoints

On several nodes, start it on each with --nnodes, --node-rank and --master-addr, or use torchrun:
`torchrun ... -m megatron_srp train ...`.

The flags below are this project's; every flag of Megatron works too, and overrides a preset's.
`python -m megatron_srp.training.pretrain --help` lists them all.
"""


def build_parser() -> argparse.ArgumentParser:
    """This project's flags; Megatron's parser has the others."""
    from megatron_srp.training.flags.rank_flags import add_rank_flags
    from megatron_srp.training.flags.srp_flags import add_srp_arguments

    parser = Parser(
        prog="srp train",
        usage="srp train [--nproc-per-node N] [flags of this project and of Megatron]",
        description=DESCRIPTION,
    )
    return add_srp_arguments(add_rank_flags(parser))


def main(argv: list[str]) -> int:
    """Train as `argv` says. Returns the exit code; a rank that fails ends the process itself."""
    if {"-h", "--help"} & set(argv):
        build_parser().print_help()
        return 0

    from megatron_srp.training.flags.command_line import look_at
    from megatron_srp.training.flags.rank_flags import split_rank_flags

    ranks, flags = split_rank_flags(argv)
    if ranks is not None and look_at(flags).srp_dry_run is None:
        from megatron_srp.training.launch import train_on

        return train_on(ranks, flags)

    from megatron_srp.training.pretrain import main as train

    train(flags)  # a run that stops early ends the process
    if os.environ.get("RANK", "0") == "0":
        _print_next(look_at(flags))
    return 0


def _print_next(args: argparse.Namespace) -> None:
    if args.srp_dry_run is not None:
        next_step("the same command without --srp-dry-run, on the GPUs")
    elif args.save:
        next_step(f"srp export {args.save} MODEL makes a Hugging Face model, for srp generate and srp evaluate")
