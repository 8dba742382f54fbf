"""Check that the checkpoint of `--load` fits this run, before Megatron fails on it with a traceback."""

import argparse
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError, UsageError
from megatron_srp.training.checks.checkpoint_format import check_format
from megatron_srp.training.checks.data_record import continue_data, succeed
from megatron_srp.training.checks.lineage import check_lineage
from megatron_srp.training.checks.vocabulary import keep_padded_size
from megatron_srp.training.flags.model_class import num_layers
from megatron_srp.training.process.repair_tracker import TRACKER

# What determines the shapes of the weights, or their meaning, with the flag of each.
_MODEL = {
    "num_layers": "--num-layers",
    "hidden_size": "--hidden-size",
    "ffn_hidden_size": "--ffn-hidden-size",
    "num_attention_heads": "--num-attention-heads",
    "num_query_groups": "--num-query-groups",
    "swiglu": "--swiglu",
    "untie_embeddings_and_output_weights": "--untie-embeddings-and-output-weights",
    "kv_channels": "--kv-channels",
    "normalization": "--normalization",
    "layernorm_epsilon": "--norm-epsilon",
    "position_embedding_type": "--position-embedding-type",
    "rotary_base": "--rotary-base",
    "use_rope_scaling": "--use-rope-scaling",
}


def check_checkpoint(args: argparse.Namespace, vocab_size: int) -> list[str]:
    """Compare the run's arguments (Megatron's, validated) with those in the checkpoint it is to load.

    Its record of earlier data is carried over into `args.srp_data`, and its padded vocabulary is kept.

    Args:
        vocab_size: of the run's tokenizer, in tokens.

    Returns:
        Notes for the user, one line each.

    Raises:
        InputError: if the checkpoint is missing, cannot be read, or is of a newer format.
        UsageError: if it has another model, tokenizer, data, schedule or optimizer, or if --save has checkpoints of a
            run that would start over.
    """
    _check_save(args)
    flag, folder, fresh = "--load", find_checkpoint(args), args.finetune
    if folder is None and args.pretrained_checkpoint is not None:  # Megatron's rule: used while --load has none
        flag, fresh = "--pretrained-checkpoint", True
        folder = find_pretrained(args)
    if folder is None or not (folder / "metadata.json").exists():  # none yet, or not our format
        return []
    if not (folder / ".metadata").exists():  # written last
        raise InputError(f"{folder} is incomplete: the save was interrupted. Pass an earlier --ckpt-step")
    common = _read_common_state(folder)
    saved = common.get("args")
    if saved is None:
        return []
    where = f"{flag} {folder.parent} (iteration {common.get('iteration', '?')})"
    _check_model(where, saved, args)
    check_lineage(where, saved, args)
    notes = [keep_padded_size(saved, args, vocab_size)]
    iteration = common.get("iteration", 0)
    if fresh:  # other initial weights, and the data from the beginning
        succeed(saved, args, iteration)
    else:
        if not args.no_load_optim:
            _check_optimizer(where, saved, args)
            _check_schedule(where, common.get("opt_param_scheduler") or {}, args)
        notes.append(continue_data(where, saved, args, iteration))
    return [note for note in notes if note]


def _check_save(args: argparse.Namespace) -> None:
    """Refuse to rerun a job with `--load` of another folder: it would start over and remove what it had saved."""
    if args.load is None or args.save is None or "://" in args.save or Path(args.save) == Path(args.load):
        return
    if (Path(args.save) / TRACKER).exists():
        raise UsageError(
            f"--save {args.save} has checkpoints, and --load {args.load} is another folder: the run would start over "
            f"and overwrite them. To resume pass --load {args.save} (with --pretrained-checkpoint {args.load}, used "
            f"until there is a checkpoint); to start over, pass another --save"
        )


def find_checkpoint(args: argparse.Namespace) -> Path | None:
    """The folder of the iteration that `--load` names; None for a first run."""
    if args.load is None:
        return None
    load = Path(args.load)
    resumes_itself = args.save is not None and Path(args.save) == load
    first_run = (resumes_itself or args.pretrained_checkpoint is not None) and not (load / TRACKER).exists()
    if first_run and args.ckpt_step is None:
        return None
    return _named("--load", args.load, args.ckpt_step)


def find_pretrained(args: argparse.Namespace) -> Path | None:
    """The folder that `--pretrained-checkpoint` names; None without the flag, or for object storage."""
    if args.pretrained_checkpoint is None:
        return None
    return _named("--pretrained-checkpoint", args.pretrained_checkpoint, None)


def _named(flag: str, value: str, step: int | None) -> Path | None:
    """The iteration `step` in the folder of `flag`, by default the latest; None for object storage."""
    if "://" in value:
        return None
    load = Path(value)
    if step is None and not (load / TRACKER).exists():
        raise InputError(f"{flag} {load}: no checkpoint there ({TRACKER} is missing); pass the folder of --save")
    name = (load / TRACKER).read_text().strip() if step is None else str(step)
    folder = load / (f"iter_{int(name):07d}" if name.isdigit() else name)
    if not folder.is_dir():
        present = sorted(path.name for path in load.glob("iter_*"))
        raise InputError(f"{flag} {load}: {folder.name} does not exist; present: {', '.join(present) or 'none'}")
    return folder


def _read_common_state(folder: Path) -> dict[str, Any]:
    from megatron.core.dist_checkpointing.serialization import load_common_state_dict
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        common = dict(load_common_state_dict(str(folder)))
        check_format(folder, common)
        return common
    except InputError:
        raise
    # The readers below raise errors of any type on damaged files; torch's own is not even an Exception.
    except (Exception, CheckpointException) as error:
        message = str(error).strip().rpartition("\n")[2] or type(error).__name__
        raise InputError(
            f"{folder} cannot be read ({message}): it is damaged, or a newer Megatron wrote it; pass an earlier "
            "--ckpt-step, or install that version"
        ) from error


def _check_model(where: str, saved: argparse.Namespace, args: argparse.Namespace) -> None:
    if getattr(saved, "hybrid_layer_pattern", None) and not args.hybrid_layer_pattern:
        raise UsageError(
            f"{where} is a checkpoint of a HybridModel, which GPTModel cannot load; pass --srp-model-class hybrid"
        )
    names = [name for name in _MODEL if hasattr(saved, name) and _value(saved, name) != _value(args, name)]
    if names:
        differing = [f"{_MODEL[name]} {_value(saved, name)} there and {_value(args, name)} here" for name in names]
        preset = getattr(saved, "srp_preset", None)
        own = " ".join(_flag(saved, name) for name in names)
        flags = f"--srp-preset {preset}" if preset and preset != args.srp_preset else own
        raise UsageError(
            f"{where} is a checkpoint of another model: {', '.join(differing)}. Pass {flags}, as it was saved with, or "
            "another folder"
        )


def _flag(saved: argparse.Namespace, name: str) -> str:
    """The flag that sets a checkpoint's value."""
    value = _value(saved, name)
    return f"{_MODEL[name]} {value}" if not isinstance(value, bool) else _MODEL[name] if value else f"no {_MODEL[name]}"


def _value(args: argparse.Namespace, name: str) -> Any:
    """Without grouped-query attention Megatron's num_query_groups is a meaningless 1: each head has its own."""
    if name == "num_layers":  # of attention and MLP, which a HybridModel counts one by one
        return num_layers(args) or args.num_layers
    if name == "num_query_groups" and not getattr(args, "group_query_attention", False):
        return args.num_attention_heads
    return getattr(args, name)


def _check_optimizer(where: str, saved: argparse.Namespace, args: argparse.Namespace) -> None:
    ours, theirs = bool(args.use_distributed_optimizer), bool(getattr(saved, "use_distributed_optimizer", False))
    if ours != theirs:
        raise UsageError(
            f"{where} was saved {'with' if theirs else 'without'} --use-distributed-optimizer and this run is "
            f"{'with' if ours else 'without'}: the optimizer's state has another format. Use it as there, or start the "
            f"optimizer from scratch with --no-load-optim"
        )
    layout = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
    there = tuple(getattr(saved, name, 1) for name in layout)
    here = tuple(getattr(args, name) for name in layout)
    reshardable = not theirs or getattr(saved, "dist_ckpt_optim_fully_reshardable", False)
    if there != here and not reshardable:
        raise UsageError(
            f"{where} was saved with TP {there[0]} PP {there[1]}, this run has TP {here[0]} PP {here[1]}, and its "
            f"optimizer state was not saved to be resharded (--dist-ckpt-optim-fully-reshardable). Pass its layout, or "
            f"--no-load-optim"
        )


def _check_schedule(where: str, saved: dict[str, Any], args: argparse.Namespace) -> None:
    if args.override_opt_param_scheduler or args.use_checkpoint_opt_param_scheduler:
        return
    batch = args.global_batch_size
    if args.train_iters:
        samples = (args.lr_decay_iters or args.train_iters) * batch
    else:
        samples = args.lr_decay_samples or args.train_samples
    values = {
        "lr_decay_steps": (samples, "total samples (--train-iters x --global-batch-size, or --train-samples)"),
        "max_lr": (args.lr, "--lr"),
        "min_lr": (args.min_lr, "--min-lr"),
        "lr_decay_style": (args.lr_decay_style, "--lr-decay-style"),
        "end_wd": (args.weight_decay if args.end_weight_decay is None else args.end_weight_decay, "--weight-decay"),
    }
    differing = [
        f"{name} {saved[key]} there and {value} here"
        for key, (value, name) in values.items()
        if key in saved and saved[key] != value
    ]
    if differing:
        raise UsageError(
            f"{where} was saved with another schedule: {'; '.join(differing)}. To continue with this run's schedule "
            f"add --override-opt-param-scheduler, with the checkpoint's --use-checkpoint-opt-param-scheduler"
        )
