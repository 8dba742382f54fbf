"""The `--srp-*` flags, the expansion of presets to Megatron's flags, and the flags that are refused.

Everything here works on the command line itself and imports neither torch nor Megatron, so that a
mistake is reported in a fraction of a second rather than after Megatron's imports.
"""

import argparse
import dataclasses
import shlex

from megatron_srp.errors import CommandParser, UsageError
from megatron_srp.training.datasets import dali as dali_loader
from megatron_srp.training.flags.model_preset import FUSED_LOSS
from megatron_srp.training.flags.precision import PRECISIONS, precision_flags
from megatron_srp.training.flags.presets import PRESETS, find_preset
from megatron_srp.training.layout.layouts import WHOLE_SEQUENCES
from megatron_srp.training.layout.model_from_flags import SHAPE_FLAGS
from megatron_srp.training.layout.recommend import recommend

UNFUSED_LOSS = "--no-cross-entropy-loss-fusion"


def _flag(help: str, **kwargs: object) -> dict[str, object]:
    return {"help": help, **kwargs}


@dataclasses.dataclass
class SrpArguments:
    """The flags of this project; each field is one flag."""

    srp_preset: str | None = dataclasses.field(
        default=None,
        metadata=_flag(
            "Model size and training recipe, expanded to Megatron's flags; flags given on the command "
            f"line win. One of {', '.join(PRESETS)}.",
            metavar="NAME",
        ),
    )
    srp_sidecar: list[str] | None = dataclasses.field(
        default=None,
        metadata=_flag(
            "Sidecars of the run's plain shards (made by `srp preprocess --input-shards`): "
            "their reflections are inserted as the shards are read. Each is matched to its shard by content.",
            nargs="+",
            metavar="FILE.srp",
        ),
    )
    srp_sft: list[str] | None = dataclasses.field(
        default=None,
        metadata=_flag(
            "Train on conversations: shards of `srp sft`, packed to the sequence length, with their loss "
            "masks. PREFIX ..., or SHARE PREFIX ... with how often an epoch uses each (0.5: half of it).",
            nargs="+",
            metavar="PREFIX",
        ),
    )
    srp_sft_valid: list[str] | None = dataclasses.field(
        default=None,
        metadata=_flag("Shards of conversations to evaluate on, as for --srp-sft.", nargs="+", metavar="PREFIX"),
    )
    srp_sft_epochs: int | None = dataclasses.field(
        default=None,
        metadata=_flag(
            "Number of epochs over the conversations (default: 1, unless --train-iters or --train-samples sets the "
            "length); the last step is padded with empty sequences.",
            type=int,
            metavar="N",
        ),
    )
    srp_allow_new_data: bool = dataclasses.field(
        default=False,
        metadata=_flag(
            "Resume from a checkpoint with other data than it was trained on: another blend, sidecar or interval of "
            "reflections. The checkpoints record both. Another tokenizer is always refused.",
            action="store_true",
        ),
    )
    srp_keep_checkpoints: int = dataclasses.field(
        default=2,
        metadata=_flag(
            "With --save-retain-interval: how many of the newest checkpoints to keep (default: 2) in addition to its "
            "milestones. A run resumes from the previous one if the newest is damaged.",
            type=int,
            metavar="N",
        ),
    )
    srp_dataloader: str = dataclasses.field(
        default="megatron",
        metadata=_flag(
            "megatron: its own loader. dali: the same batches, prefetched and copied to the GPU by NVIDIA DALI.",
            choices=["megatron", "dali"],
        ),
    )
    srp_log: str = dataclasses.field(
        default="full",
        metadata=_flag(
            "full: everything Megatron prints. brief: without the list of all arguments and its start-up "
            "notes (the default of the debug preset).",
            choices=["full", "brief"],
        ),
    )
    srp_precision: str | None = dataclasses.field(
        default=None,
        metadata=_flag(
            "Number format and FP8 recipe, expanded to Megatron's flags; flags given on the command line win.",
            choices=list(PRECISIONS),
        ),
    )
    srp_layout: str | None = dataclasses.field(
        default=None,
        metadata=_flag(
            "auto: the parallel sizes and the micro-batch that `srp presets` recommends for the preset on "
            "the run's number of GPUs; flags given on the command line win.",
            choices=["auto"],
        ),
    )
    srp_dry_run: int | None = dataclasses.field(
        default=None,
        metadata=_flag(
            "Check everything as for a run on this many GPUs, print Megatron's flags, and exit; needs no GPU.",
            type=int,
            metavar="GPUS",
        ),
    )


def add_srp_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the `--srp-*` group, one flag for each field of `SrpArguments`, and the switch of a preset's flag."""
    group = parser.add_argument_group(title="safety reflection pretraining")
    for field in dataclasses.fields(SrpArguments):
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(flag, default=field.default, **field.metadata)
    group.add_argument(
        UNFUSED_LOSS, action="store_true", help=f"Leave {FUSED_LOSS} out of the preset: Megatron has no flag for that."
    )
    return parser


# The flags that decide whether a run may start, in Megatron's own spelling and types.
_LOOKED_AT: dict[str, dict[str, object]] = {
    "--train-iters": {"type": int},
    "--train-samples": {"type": int},
    "--data-path": {"nargs": "*"},
    "--train-data-path": {"nargs": "*"},
    "--valid-data-path": {"nargs": "*"},
    "--test-data-path": {"nargs": "*"},
    "--data-args-path": {},
    "--per-split-data-args-path": {},
    "--mock-data": {"action": "store_true"},
    "--tokenizer-type": {},
    "--tokenizer-model": {},
    "--use-checkpoint-args": {"action": "store_true"},
    "--load": {},
    "--save": {},
    "--tensorboard-dir": {},
    "--data-cache-path": {},
    "--pretrained-checkpoint": {},
    "--finetune": {"action": "store_true"},
    "--ckpt-step": {"type": int},
    "--seed": {"type": int},
    "--split": {},
    "--eval-iters": {"type": int},
    "--full-validation": {"action": "store_true"},
    "--yaml-cfg": {},
    "--async-save": {"action": "store_true"},
    "--use-persistent-ckpt-worker": {"action": "store_true"},
    "--eod-mask-loss": {"action": "store_true"},
    "--context-parallel-size": {"type": int},
    "--mtp-num-layers": {"type": int},
    "--help": {"action": "store_true"},
}
_LOOKED_AT |= SHAPE_FLAGS

_CUTS_CONTEXT = (
    "it restarts at every end-of-document token, and a reflection puts one inside a document after an "
    "unsafe segment: the model would not see the text that it has to stop. Leave it out"
)
_OTHER_DATASET = "this entry point feeds pretraining shards only"
_OTHER_BATCH = "this entry point does not build such batches (yet). Leave it out"

# Refused because they would silently break the method, or would be silently ignored.
REFUSED = {
    "--reset-position-ids": _CUTS_CONTEXT,
    "--reset-attention-mask": _CUTS_CONTEXT,
    "--yaml-cfg": "Megatron then drops every flag on the command line. Pass flags or --srp-preset",
    "--sft": "Megatron's --sft masks the stop signal (its pad id is eos). Use --srp-sft PREFIX",
    "--fim-data": _OTHER_DATASET + ", and fill-in-the-middle would tear reflections from their segments",
    "--dataloader-inter-document-masking": _OTHER_BATCH,
    "--hybrid-context-parallel": _OTHER_BATCH,
    "--context-parallel-size": WHOLE_SEQUENCES + ". Leave it out; for long sequences, --srp-layout auto "
    "or `srp presets --seq-length` find a layout with tensor parallelism and recomputation",
    "--mtp-num-layers": _OTHER_BATCH,
    "--perform-rl-step": "this entry point only pretrains",
}
for _name in REFUSED:
    _LOOKED_AT.setdefault(_name, {"action": "store_true"})


def look_at(argv: list[str]) -> argparse.Namespace:
    """Parse the few flags that decide whether a run may start; Megatron parses all others."""
    parser = add_srp_arguments(CommandParser(add_help=False))
    for flag, kwargs in _LOOKED_AT.items():
        parser.add_argument(flag, **kwargs)  # type: ignore[arg-type]
    return parser.parse_known_args(argv)[0]


def check_flags(args: argparse.Namespace) -> list[str]:
    """Refuse flags that would silently break the method; returns notes for the user, one line each.

    `args` is a namespace from `look_at` or from Megatron's own parser.
    """
    for flag, reason in REFUSED.items():
        value = getattr(args, flag[2:].replace("-", "_"))
        if value and (flag, value) != ("--context-parallel-size", 1):
            raise UsageError(f"{flag} cannot be used here: {reason}")
    if args.async_save and not args.use_persistent_ckpt_worker:
        raise UsageError(
            "--async-save needs --use-persistent-ckpt-worker, or Megatron saves while training waits; pass both "
            "(and --async-strategy mcore where nvidia-resiliency-ext is not installed)"
        )
    if args.srp_keep_checkpoints < 1:
        raise UsageError(f"--srp-keep-checkpoints {args.srp_keep_checkpoints}: must be at least 1")
    if args.srp_dataloader == "dali":
        dali_loader.check_installed()
    if args.eod_mask_loss:
        # It masks positions whose *input* is eod: the eos after an unsafe reflection is still learned.
        return ["--eod-mask-loss: the first token after each mid-document stop is not trained either"]
    return []


def check_pad_token(pad_id: int | None, eod_id: int | None, allow_ambiguous_pad_tokens: bool) -> None:
    """Refuse the one setting in which a pad id equal to eos removes the stop signal from the loss.

    By default Megatron notices the collision and masks nothing; `--allow-ambiguous-pad-tokens`
    (its help seems to say the opposite) makes it mask every eos.
    """
    if allow_ambiguous_pad_tokens and pad_id is not None and pad_id == eod_id:
        raise UsageError(
            f"--allow-ambiguous-pad-tokens cannot be used with this tokenizer: its pad token is its eos "
            f"(id {eod_id}), so every stop after an unsafe segment would be left out of the loss. Leave "
            f"the flag out, or use a tokenizer with a pad token of its own"
        )


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


def format_flags(argv: list[str]) -> str:
    """One flag with its values per line, quoted for a shell."""
    lines: list[str] = []
    for token in argv:
        if token.startswith("--") or not lines:
            lines.append(shlex.quote(token))
        else:
            lines[-1] += " " + shlex.quote(token)
    return "\n".join(lines)
