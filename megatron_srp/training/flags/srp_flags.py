"""The `--srp-*` flags of a training run."""

import argparse
import dataclasses

from megatron_srp.training.flags.model_class import CLASSES
from megatron_srp.training.flags.model_preset import FUSED_LOSS
from megatron_srp.training.flags.precision import PRECISIONS
from megatron_srp.training.flags.presets import PRESETS

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
    srp_model_class: str = dataclasses.field(
        default="gpt",
        metadata=_flag(
            "gpt: Megatron's GPTModel, which it calls deprecated. hybrid: the same layers as its HybridModel, with the "
            "same losses; a checkpoint of gpt can be loaded into hybrid.",
            choices=list(CLASSES),
        ),
    )
    srp_sidecar: list[str] | None = dataclasses.field(
        default=None,
        metadata=_flag(
            "Sidecars of the run's plain shards (made by `srp preprocess --input-shards`), here or on s3://: "
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
    srp_log_reflections: bool = dataclasses.field(
        default=False,
        metadata=_flag(
            "Log to TensorBoard and W&B, with Megatron's scalars: the loss on text, the loss on reflections, and the "
            "share of verdicts that the model would have written right, by verdict.",
            action="store_true",
        ),
    )
    srp_log: str = dataclasses.field(
        default="full",
        metadata=_flag(
            "full: everything Megatron prints. brief: without the list of all arguments and its start-up notes, "
            "and a short line per step, with the loss, tokens a second, on a GPU the MFU, and the time left (the "
            "default of the debug preset).",
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
