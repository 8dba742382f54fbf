"""The expansion of presets to Megatron's flags; what the command line sets itself wins."""

import argparse

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.model_preset import FUSED_LOSS
from megatron_srp.training.flags.precision import precision_flags
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.flags.srp_flags import UNFUSED_LOSS
from megatron_srp.training.layout.recommend import recommend

# Megatron has no default, and fails at its first use. One evaluation costs `--eval-iters` steps.
EVAL_INTERVAL = ("--eval-interval", "1000")

# A default is dropped when the command line has one of these instead.
_ALTERNATIVES = {
    "--train-iters": {"--train-samples"},
    "--lr-warmup-fraction": {"--lr-warmup-iters", "--lr-warmup-samples"},
    "--bf16": {"--fp16"},
    # Its gradient is in bf16 whatever the run's type is, and Megatron does not call it deterministic.
    FUSED_LOSS: {UNFUSED_LOSS, "--fp16", "--deterministic-mode"},
    "--group-query-attention": {"--multi-latent-attention"},
    "--lr-wsd-decay-iters": {"--lr-wsd-decay-samples"},
    "--lr-wsd-decay-samples": {"--lr-wsd-decay-iters"},
    "--split": {
        *("--train-data-path", "--valid-data-path", "--test-data-path", "--per-split-data-args-path"),
        "--eval-iters",  # needs a validation split: Megatron's default has one
    },
}


def add_defaults(defaults: list[str], argv: list[str]) -> list[str]:
    """`argv` after those of `defaults` that it does not set itself, as `--flag value` or `--flag=value`."""
    given = {token.partition("=")[0] for token in argv if token.startswith("--")}
    kept: list[str] = []
    keep = False
    for token in defaults:
        if token.startswith("--"):
            keep = not given & {token, *_ALTERNATIVES.get(token, ())}
        if keep:
            kept.append(token)
    return kept + argv


def single_precision(flags: list[str], own: list[str]) -> list[str]:
    """`flags` without a preset's bf16, unless the user's `own` flags choose a precision: a CPU is faster in fp32."""
    chosen = {token.partition("=")[0] for token in own} & {"--bf16", "--fp16", "--srp-precision"}
    return flags if chosen else [flag for flag in flags if flag not in ("--bf16", FUSED_LOSS)]


def preset_defaults(args: argparse.Namespace, gpus: int) -> list[str]:
    """The flags of `--srp-precision`, `--srp-layout` and `--srp-preset`, except those that depend on the run's length.

    Args:
        args: the user's own flags.
        gpus: number of GPUs of the whole run, for `--srp-layout auto`.
    """
    if args.srp_layout and args.srp_preset is None:
        raise UsageError("--srp-layout auto needs --srp-preset: layouts are known for the presets only")
    flags = precision_flags(args.srp_precision) if args.srp_precision is not None else []
    if args.srp_preset is None:
        return flags
    preset = find_preset(args.srp_preset)
    if args.srp_layout:
        asked = preset.with_batch(args.seq_length, args.global_batch_size)
        packed = bool(args.srp_sft) and args.transformer_impl != "local"
        best = recommend(asked, gpus, args.srp_precision or "bf16", packed)
        flags = add_defaults(best.layout.to_flags(), flags)
    if (args.seq_length or 0) > preset.recipe.seq_length:  # otherwise Megatron refuses it
        flags = add_defaults(["--max-position-embeddings", str(args.seq_length)], flags)
    return add_defaults(preset.to_flags(), flags)


def decay_defaults(args: argparse.Namespace) -> list[str]:
    """The length of the preset's decay phase.

    Args:
        args: the flags of the whole run, including its length.
    """
    if args.srp_preset is None:
        return []
    return find_preset(args.srp_preset).recipe.wsd_decay_flags(args.train_iters, args.train_samples)
