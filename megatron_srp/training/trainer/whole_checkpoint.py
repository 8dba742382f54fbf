"""Resume from a checkpoint whose tensors are as they were saved. The ranks share the reading."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from megatron.training import get_args

from megatron_srp.errors import InputError
from megatron_srp.training.checks.checkpoint import find_checkpoint, find_pretrained
from megatron_srp.training.checks.checkpoint_files import checkpoint_folder, find_damage
from megatron_srp.training.checks.verify_checkpoint import find_damaged_parts, parts_of
from megatron_srp.training.process.exits import print_note
from megatron_srp.training.process.repair_tracker import TRACKER, complete_checkpoints


def load_whole(load_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron's `load_checkpoint`, but of the newest checkpoint without damage inside a tensor.

    torch saves a checksum with every tensor and does not compare it when it loads: the damage would be trained on.
    """

    def load(*args: Any, **kwargs: Any) -> Any:
        _choose(get_args())
        return load_checkpoint(*args, **kwargs)

    return load


def _choose(args: argparse.Namespace) -> None:
    """Set `args.ckpt_step` if the latest checkpoint is damaged.

    Raises:
        InputError: if the one that was asked for is, or no earlier one is whole.
    """
    if args.load is not None and "://" in args.load:
        return
    if args.load is None or (args.ckpt_step is None and not (Path(args.load) / TRACKER).is_file()):
        _check_pretrained(args)
        return
    folder = find_checkpoint(args)
    if folder is None or not folder.name.startswith("iter_"):
        return
    damage = _find_damage(folder)
    if damage is None:
        return
    load, latest = folder.parent, int(folder.name.removeprefix("iter_"))
    earlier = [step for step in complete_checkpoints(load) if step < latest]
    if args.ckpt_step is not None or args.finetune:
        raise InputError(f"{folder} is damaged: {damage}; pass an earlier --ckpt-step, or another folder")
    for step in earlier:
        if find_damage(checkpoint_folder(load, step)) is None and _find_damage(checkpoint_folder(load, step)) is None:
            print_note(f"{folder} is damaged ({damage}): resuming from the previous iteration, {step}")
            args.ckpt_step = step
            return
    raise InputError(f"{folder} is damaged: {damage}; no earlier checkpoint in {load} is whole")


def _check_pretrained(args: argparse.Namespace) -> None:
    """The weights to start from, in a first run; there is none before them to fall back to."""
    folder = find_pretrained(args)
    damage = folder and (find_damage(folder) or _find_damage(folder))
    if damage:
        raise InputError(
            f"--pretrained-checkpoint {args.pretrained_checkpoint}: {folder} is damaged: {damage}; copy it again"
        )


def _find_damage(folder: Path) -> str | None:
    """The first damaged tensor, the same on all ranks; None for another format too."""
    if not (folder / ".metadata").is_file():
        return None
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = next(find_damaged_parts(folder, parts_of(folder)[rank::world]), None)
    found: list[str | None] = [None] * world
    torch.distributed.all_gather_object(found, own)
    return next((damage for damage in found if damage is not None), None)
