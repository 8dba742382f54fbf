"""Shards on object storage: where Megatron keeps what it needs for them on this machine."""

from typing import Any

from megatron_srp.training.checks.object_storage import prepare_data
from megatron_srp.training.checks.sidecars import shard_of


def prepare_object_storage(paths: list[str], config: Any) -> None:
    """Prepare the data, and keep the sample indices of shards on object storage in the folder that has their indices.

    Megatron's default is a folder next to the shard, which it would make on this machine as `./s3:/BUCKET/...`.

    Args:
        paths: data paths.
        config: Megatron's GPTDatasetConfig, or a subclass; `path_to_cache` is set in place.

    Raises:
        UsageError, InputError: as `prepare_data` does.
    """
    prepare_data(paths, config)
    if any("://" in shard_of(path) for path in paths) and config.path_to_cache is None:
        config.path_to_cache = config.object_storage_cache_path
