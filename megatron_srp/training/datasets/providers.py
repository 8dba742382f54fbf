"""Choose the dataset that reads the shards, and check that it can. Needs megatron.core only, not the trainer."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
from megatron.core.datasets.utils import Split

from megatron_srp.errors import UsageError
from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks.sidecars import match_sidecars, only_megatron_reads
from megatron_srp.training.host.register import register

# Fields of GPTDatasetConfig whose argument has another name, with that name.
DATASET_OPTIONS = {
    "random_seed": "seed",
    "sequence_length": "seq_length",
    "split": "split",
    "multiple_validation_sets": "multiple_validation_sets",
    "full_validation": "full_validation",
    "num_dataset_builder_threads": "num_dataset_builder_threads",
    "path_to_cache": "data_cache_path",
    "mmap_bin_files": "mmap_bin_files",
    "reset_position_ids": "reset_position_ids",
    "reset_attention_mask": "reset_attention_mask",
    "eod_mask_loss": "eod_mask_loss",
    "create_attention_mask": "create_attention_mask_in_dataloader",
    "object_storage_cache_path": "object_storage_cache_path",
    "mid_level_dataset_surplus": "mid_level_dataset_surplus",
    "allow_ambiguous_pad_tokens": "allow_ambiguous_pad_tokens",
    "fast_cache_load": "dataloader_fast_cache_load",
    "defer_npy_index_mmap": "dataloader_defer_npy_index_mmap",
    "inter_document_masking": "dataloader_inter_document_masking",
    "context_parallel_size": "context_parallel_size",
}


@dataclass(frozen=True)
class DatasetKind:
    """The dataset class that reads the shards, what makes its configuration, and that one's extra fields."""

    dataset: type
    config: Callable[..., Any] = GPTDatasetConfig
    extra_options: Callable[[argparse.Namespace], dict[str, Any]] = lambda args: {}


def choose_dataset(args: argparse.Namespace) -> DatasetKind:
    """The dataset for these arguments: the place to add another way to read shards."""
    register()
    if args.mock_data:
        return DatasetKind(MockGPTDataset)
    sidecars = match_sidecars(args.srp_sidecar or [], shards.shard_prefixes(args))
    return DatasetKind(GPTDataset, partial(config_with_sidecars, sidecars))


def config_with_sidecars(sidecars: dict[str, str], **options: Any) -> GPTDatasetConfig:
    """Megatron's configuration, reading each shard of `sidecars` with its reflections."""

    def reflected(blend: tuple[list[str], list[float] | None] | None) -> tuple[list[str], list[float] | None] | None:
        return blend and ([sidecars.get(path, path) for path in blend[0]], blend[1])

    per_split = options["blend_per_split"]
    options["blend"] = reflected(options["blend"])
    options["blend_per_split"] = per_split and [reflected(blend) for blend in per_split]
    return GPTDatasetConfig(**options)


def check_splits(config: Any) -> None:
    """Refuse a split without a document, whose epochs Megatron would add up forever.

    Its default `--split` leaves a part of a small corpus empty. Every rank checks, before
    they build together: if only rank 0 stopped, the others would fail on the lost connection.
    """
    if config.blend is None:
        return  # mock data, or a blend for each split, whose shards are used whole
    for prefix in config.blend[0]:
        if only_megatron_reads(prefix):
            continue
        num_sequences = shards.num_sequences(prefix)
        for split, span in zip(Split, config.split_matrix, strict=True):
            if span is not None and round(span[0] * num_sequences) == round(span[1] * num_sequences):
                raise UsageError(
                    f"{prefix}: no document falls into its {split.name} split; make that part of --split "
                    f"larger, or leave it out (--split 1,0,0 with --eval-iters 0 trains on everything)"
                )
