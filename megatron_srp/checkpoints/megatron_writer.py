"""Write a distributed checkpoint of Megatron, one tensor at a time, without a process group."""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemWriter, save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType

from megatron_srp.checkpoints.llama import Weight
from megatron_srp.checkpoints.megatron_checkpoint import quiet
from megatron_srp.errors import OutputError, SrpError

Read = Callable[[Weight], torch.Tensor]


def write_checkpoint(
    folder: Path,
    table: list[Weight],
    read: Read,
    dtype: torch.dtype,
    args: argparse.Namespace,
    num_layers: int,
    empty_objects: list[str],
) -> None:
    """Write weights and arguments as Megatron's `torch_dist` format.

    Args:
        folder: folder to create.
        table: the weights, those of layers as parts of stacks of `num_layers`.
        read: returns a weight when it is about to be written.
        dtype: of all weights in the checkpoint.
        args: arguments by which Megatron checks that the model fits.
        empty_objects: names of objects that Megatron's layers look for, written as None.
    """
    common = {"args": args, "checkpoint_version": 3.0, "iteration": 0, "content_metadata": {}}
    objects: dict[str, Any] = {"common_state/shard_0_1": [common]} | {name: [None] for name in empty_objects}
    planner = _StreamingPlanner(table, read, dtype, num_layers, objects)
    try:
        with quiet():
            save({}, storage_writer=FileSystemWriter(folder), planner=planner, no_dist=True)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise cause if isinstance(cause, SrpError | OSError) else OutputError(f"{folder}: {cause}") from None
    backend = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    (folder / "metadata.json").write_text(json.dumps(backend))


class _StreamingPlanner(SavePlanner):
    """Plans from shapes alone; a tensor is read when the writer asks for its data."""

    def __init__(
        self, table: list[Weight], read: Read, dtype: torch.dtype, num_layers: int, objects: dict[str, Any]
    ) -> None:
        self._read, self._dtype, self._num_layers, self._objects = read, dtype, num_layers, objects
        self._weights = {self._index(weight): weight for weight in table}

    @staticmethod
    def _offsets(weight: Weight) -> torch.Size:
        start = () if weight.layer is None else (weight.layer,)
        return torch.Size((*start, *(0 for _ in weight.shape)))

    def _index(self, weight: Weight) -> MetadataIndex:
        return MetadataIndex(weight.megatron, self._offsets(weight))

    def _tensor_item(self, index: MetadataIndex, weight: Weight) -> WriteItem:
        stacked = weight.layer is not None
        chunk = ChunkStorageMetadata(self._offsets(weight), torch.Size((*([1] * stacked), *weight.shape)))
        size = torch.Size((*([self._num_layers] * stacked), *weight.shape))
        data = TensorWriteData(chunk, TensorProperties(dtype=self._dtype), size)
        return WriteItem(index, WriteItemType.SHARD, tensor_data=data)

    def set_up_planner(self, *args: Any, **kwargs: Any) -> None:
        pass

    def create_local_plan(self) -> SavePlan:
        items = [self._tensor_item(index, weight) for index, weight in self._weights.items()]
        items += [WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO) for name in self._objects]
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans, rewrite_index_hints=False)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        if write_item.type == WriteItemType.BYTE_IO:
            data = io.BytesIO()
            torch.save(self._objects[write_item.index.fqn], data)
            return data
        weight = self._weights[write_item.index]
        tensor = self._read(weight).to(self._dtype)
        return (tensor if weight.layer is None else tensor.unsqueeze(0)).contiguous()
