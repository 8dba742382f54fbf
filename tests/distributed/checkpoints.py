"""Read any of Megatron's distributed checkpoints, whatever the layout that wrote it."""

from pathlib import Path

import torch
from torch.distributed.checkpoint import FileSystemReader, load
from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def load_tensors(checkpoints: Path, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, whole: weights and the optimizer's moments, by name."""
    reader = FileSystemReader(checkpoints / f"iter_{step:07d}")
    stored = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference over all tensors; both must hold the same ones."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)
