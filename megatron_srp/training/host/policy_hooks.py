"""What a policy asks of Megatron's GPTDataset besides the tokens: a loss mask, and the plain text at first.

    GPTDataset.__getitem__(dataset, number)                       returns `loss_mask` float[s], which is multiplied here
    GPTDataset._query_document_sample_shuffle_indices(number)     reads the tokens of a sample from `dataset.dataset`

Samples are numbered in the order in which a run reads a shard, so the share of them that was read is the share of the
training that is over.
"""

import copy
import functools
import math
from typing import Any

import numpy as np

from megatron_srp.data.policies.policy import policy_name
from megatron_srp.data.reflection_table import Entry, ReflectionTable
from megatron_srp.data.shards.data_path import is_sidecar
from megatron_srp.data.shards.sidecar import read_header
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import UsageError

_PLAIN = "_plain_samples"
_READS = ("__getitem__", "_query_document_sample_shuffle_indices")


def refuse_unhooked(cls: type, base: type, paths: list[str]) -> None:
    """Refuse sidecars whose policy asks more of a dataset class than tokens, where it reads samples in its own way.

    Args:
        base: Megatron's GPTDataset, with the hooks.

    Raises:
        UsageError: which names the policy, and what it needs.
    """
    if all(getattr(cls, name, None) is getattr(base, name) for name in _READS):
        return
    for path in filter(is_sidecar, paths):
        if need := _need(read_header(path)):
            raise UsageError(
                f"{path}: its policy, {need}, which {cls.__name__} does not pass on, as it reads samples in a way of "
                "its own; use GPTDataset, or a policy that changes tokens only"
            )


def _need(header: dict[str, Any]) -> str:
    name = policy_name(header["info"])
    if ReflectionTable([Entry.from_json(entry) for entry in header["table"]]).masks():
        return f"{name}, needs a loss mask"
    started = (header["info"].get("policy") or {}).get("start_share")
    return f"{name} with --start-share {started}, needs the plain text at first" if started else ""


def add_plain_samples(dataset: Any, open_plain: Any, settings: tuple[Any, ...]) -> None:
    """Give a training dataset the samples of its plain shard, which are read before the share of its start.

    Args:
        open_plain: Megatron's `build_low_level_dataset`.
        settings: the other arguments of the dataset: indices, number of samples, split, configuration.
    """
    view = dataset.dataset
    if not view.start_share or settings[2].name != "train":
        return
    indices, number, split, config = settings
    wanted = None if number is None else math.ceil(view.start_share * number)
    plain = open_plain(view.path_prefix, config)
    setattr(dataset, _PLAIN, type(dataset)(plain, view.path_prefix, indices, wanted, split, config))


def plain_samples(dataset: Any, number: int | None) -> Any:
    """The dataset that has sample `number` of `dataset` as plain text; None where that one has it itself."""
    plain = dataset.__dict__.get(_PLAIN)
    if plain is None or number is None:
        return None
    whole = dataset.num_samples or len(dataset)
    return plain if number < math.ceil(dataset.dataset.start_share * whole) else None


def treating(plain_getitem: Any) -> Any:
    """`GPTDataset.__getitem__` that follows the policy of the dataset's sidecar."""

    @functools.wraps(plain_getitem)
    def getitem(dataset: Any, number: int | None) -> dict[str, Any]:
        before = plain_samples(dataset, number)
        if before is not None:
            assert number is not None
            sample: dict[str, Any] = before[number % len(before)]
            return sample
        sample = plain_getitem(dataset, number)
        view = dataset.dataset
        if isinstance(view, ReflectedIndexedDataset) and view.masks:
            sample["loss_mask"] = sample["loss_mask"] * _learned(dataset, number or 0)
        return sample

    return getitem


def _learned(dataset: Any, number: int) -> Any:
    """float[s]: 1 where the label is learned, read as Megatron reads the tokens."""
    import torch

    masks = copy.copy(dataset)
    masks.dataset = _Masks(dataset.dataset)
    learned = masks._query_document_sample_shuffle_indices(number)[0] != 0  # padding is masked by Megatron itself
    if dataset.config.add_extra_token_to_sequence:
        return torch.from_numpy(learned[1:]).float()
    return torch.from_numpy(np.append(learned[1:], True)).float()


class _Masks:
    """The mask of a view, read like its tokens."""

    def __init__(self, view: ReflectedIndexedDataset) -> None:
        self.get = view.mask
