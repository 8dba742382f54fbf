"""Read a distributed checkpoint of Megatron, of any parallel layout, one tensor at a time."""

import argparse
import logging
import math
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from megatron_srp.errors import InputError
from megatron_srp.training.checks.checkpoint_format import check_format
from megatron_srp.training.process.extensions import hide_broken_engine
from megatron_srp.training.process.repair_tracker import TRACKER


def find_iteration(path: Path, step: int | None = None) -> Path:
    """The folder of one checkpoint: `path` itself, or the latest (or `step`'s) in a `--save` folder."""
    if (path / ".metadata").is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; pass a run's --save folder, or one iter_... in it")
    known = sorted(found.parent.name for found in path.glob("*/.metadata"))
    if list(path.glob("**/model_optim_rng.pt")):
        raise InputError(f"{path}: not a distributed checkpoint; load it and save it with --ckpt-format torch_dist")
    name = f"iter_{step:07d}" if step is not None else _latest(path)
    if name not in known:
        choices = ", ".join(known) or "none"
        raise InputError(f"{path}: {name or 'a checkpoint'} does not exist or was not finished; finished: {choices}")
    return path / name


def _latest(path: Path) -> str | None:
    tracker = path / TRACKER
    latest = tracker.read_text().strip() if tracker.is_file() else ""
    return f"iter_{int(latest):07d}" if latest.isdigit() else latest or None


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Megatron's and torch's warnings that CUDA, its extensions or a process group are missing."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


_FINAL_NORM, _HYBRID_FINAL_NORM = "decoder.final_layernorm.weight", "decoder.final_norm.weight"


class MegatronCheckpoint:
    """A distributed checkpoint, whatever layout wrote it.

    Attributes:
        folder: of this iteration.
        args: the arguments of the run that wrote it.
        tensors: name to metadata (size, dtype) of the model's tensors, without the optimizer's.

    Raises:
        InputError: when there is no finished checkpoint, or it cannot be read.
    """

    def __init__(self, path: Path, step: int | None = None) -> None:
        self.folder = find_iteration(path, step)
        self._reader = FileSystemReader(self.folder)
        try:
            metadata = self._reader.read_metadata()
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
            raise InputError(f"{self.folder}/.metadata: cannot be read ({error})") from None
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)
        self.tensors: dict[str, TensorStorageMetadata] = {
            name: entry
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata) and "optimizer" not in name
        }
        self.args = self._read_args()

    def _read_args(self) -> argparse.Namespace:
        try:
            with quiet():
                hide_broken_engine()
                from megatron.core.dist_checkpointing.serialization import load_common_state_dict

                common = load_common_state_dict(str(self.folder))
                check_format(self.folder, common)
                args = common["args"]
        except InputError:
            raise
        except (Exception, CheckpointException) as error:  # of many kinds; CheckpointException is not an Exception
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise InputError(f"{self.folder}: its arguments cannot be read ({reason})") from None
        assert isinstance(args, argparse.Namespace)
        return args

    def read(self, name: str, layer: int | None = None) -> torch.Tensor:
        """One whole tensor, or one layer of a stack; only its own bytes are read.

        Raises:
            InputError: when the checkpoint has no such tensor, or a part of it is missing or damaged.
        """
        name, layer = self._locate(name, layer)
        stored = self.tensors[name]
        start = [0] * len(stored.size)
        size = list(stored.size)
        if layer is not None:
            start[0], size[0] = layer, 1
        target = torch.empty(size, dtype=stored.properties.dtype)
        chunk = ChunkStorageMetadata(offsets=torch.Size(start), sizes=torch.Size(size))
        items = create_read_items_for_chunk_list(name, stored, [chunk])
        if sum(math.prod(item.lengths) for item in items) != target.numel():
            raise InputError(f"{self.folder}: parts of {name} are missing")
        try:
            self._reader.read_data(LoadPlan(items), _Into(target))
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.folder}: {name} cannot be read, the checkpoint is damaged ({reason})") from None
        return target if layer is None else target[0]

    def size(self, name: str, layer: int | None = None) -> tuple[int, ...]:
        """The size of what `read` returns."""
        name, layer = self._locate(name, layer)
        return tuple(self.tensors[name].size)[layer is not None :]

    def _locate(self, name: str, layer: int | None) -> tuple[str, int | None]:
        stored, layer = self.stored(name, layer)
        if stored not in self.tensors:
            raise InputError(f"{self.folder}: has no {name}; is this the checkpoint of a GPT model?")
        return stored, layer

    def stored(self, name: str, layer: int | None) -> tuple[str, int | None]:
        """The tensor with GPTModel's name in this checkpoint, and which of a stack; it need not be there."""
        # Layers that differ (in heterogeneous and hybrid models) are stored one by one.
        if layer is not None and name not in self.tensors:
            own = name.replace("decoder.layers.", f"decoder.layers.{self._number(name, layer)}.", 1)
            if own in self.tensors:
                return own, None
        if name == _FINAL_NORM and name not in self.tensors:
            name = _HYBRID_FINAL_NORM
        return name, layer

    def _number(self, name: str, layer: int) -> int:
        """A HybridModel counts attention and MLP one by one."""
        hybrid = getattr(self.args, "hybrid_layer_pattern", None)
        return 2 * layer + (".mlp." in name) if hybrid else layer


class _Into(DefaultLoadPlanner):
    """Loads into one tensor. (The plan exists already: only this method is called.)"""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self._target = target

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        where = (slice(start, start + n) for start, n in zip(read_item.dest_offsets, read_item.lengths, strict=True))
        return self._target[tuple(where)]

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        pass  # the tensor is a view of the target
