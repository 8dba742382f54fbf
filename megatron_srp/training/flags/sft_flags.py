"""`--srp-sft`: what its flags mean for a run, without importing torch or Megatron."""

import argparse
import math
from collections.abc import Iterable
from functools import cache

from megatron_srp.errors import UsageError
from megatron_srp.sft.packing import Packs
from megatron_srp.sft.training_set import TrainingSet, parse_sources
from megatron_srp.training.layout.model_from_flags import layout_of

DEFAULT_SEED = 1234  # Megatron's
_OTHER_DATA = (
    *("data_path", "train_data_path", "valid_data_path", "test_data_path"),
    *("data_args_path", "per_split_data_args_path", "mock_data"),
)


def conversation_defaults(args: argparse.Namespace, whole: argparse.Namespace, gpus: int) -> list[str]:
    """The flags that `--srp-sft` needs.

    The loss is averaged over all learned tokens of a step, and without --train-iters or --train-samples the run
    is as long as --srp-sft-epochs says.

    Args:
        args: the user's own flags.
        whole: those with the preset's, which sets the sequence length and the batch size.
    """
    defaults = ["--calculate-per-token-loss"]
    if args.eval_iters is None:  # each evaluation goes through the whole set once
        held_out = validation_set_of(whole)
        defaults += ["--eval-iters", str(_steps(whole, [held_out.epoch(0)], gpus) if held_out else 0)]
    if args.train_iters is None and args.train_samples is None:
        epochs = args.srp_sft_epochs or 1
        packs = map(training_set_of(whole).epoch, range(epochs))
        defaults += ["--srp-sft-epochs", str(epochs), "--train-iters", str(_steps(whole, packs, gpus))]
    return defaults


def check_together(args: argparse.Namespace) -> None:
    """Refuse flags that do not work with `--srp-sft`, or that need it."""
    if not args.srp_sft:
        given = [f for f in ("--srp-sft-valid", "--srp-sft-epochs") if getattr(args, f[2:].replace("-", "_"))]
        if given:
            raise UsageError(f"{given[0]} needs --srp-sft PREFIX, the shard to train on")
        return
    for flag in _OTHER_DATA:
        if getattr(args, flag):
            raise UsageError(f"--{flag.replace('_', '-')} and --srp-sft cannot be used together: pass one kind of data")
    if remote := [path for path in [*args.srp_sft, *(args.srp_sft_valid or [])] if "://" in path]:
        raise UsageError(f"{remote[0]}: conversations are read from a disk; copy the shard here and pass its prefix")
    if args.srp_sidecar:
        raise UsageError("--srp-sidecar is for pretraining: conversations have their reflections in the shard already")
    if args.srp_log_reflections:
        raise UsageError("--srp-log-reflections is for pretraining data: it cannot be used with --srp-sft")
    if args.srp_sft_epochs is not None and args.srp_sft_epochs < 1:
        raise UsageError(f"--srp-sft-epochs {args.srp_sft_epochs}: must be at least 1")
    if args.srp_sft_epochs is not None and (args.train_iters or args.train_samples):
        raise UsageError("--srp-sft-epochs and --train-iters (or --train-samples) both set the length: pass one")
    if args.eval_iters and not args.srp_sft_valid:
        raise UsageError(f"--eval-iters {args.eval_iters} needs conversations to evaluate on: --srp-sft-valid PREFIX")


def _steps(args: argparse.Namespace, epochs: Iterable[Packs], gpus: int) -> int:
    """Steps that this many packs take."""
    if args.rampup_batch_size or args.step_batch_size_schedule:
        raise UsageError("--srp-sft with a growing batch: pass --train-samples and --eval-iters instead of epochs")
    layout = layout_of(args, gpus)
    batch = args.global_batch_size or layout.micro_batch * max(1, gpus // (layout.tensor * layout.pipeline))
    return math.ceil(sum(map(len, epochs)) / batch)


def training_set_of(args: argparse.Namespace) -> TrainingSet:
    """The set of `--srp-sft`; `args` is a namespace from `command_line.look_at` or from Megatron's parser."""
    return _open(tuple(args.srp_sft), "--srp-sft", args)


def validation_set_of(args: argparse.Namespace) -> TrainingSet | None:
    """The set of `--srp-sft-valid`, or None."""
    return _open(tuple(args.srp_sft_valid), "--srp-sft-valid", args) if args.srp_sft_valid else None


def _open(values: tuple[str, ...], flag: str, args: argparse.Namespace) -> TrainingSet:
    if args.seq_length is None:
        raise UsageError(f"{flag}: pass --srp-preset or --seq-length")
    return _open_once(values, flag, args.seq_length, DEFAULT_SEED if args.seed is None else args.seed)


@cache
def _open_once(values: tuple[str, ...], flag: str, seq_length: int, seed: int) -> TrainingSet:
    return TrainingSet(parse_sources(values, flag), seq_length, seed)
