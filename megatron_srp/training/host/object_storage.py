"""Shards on object storage: what Megatron needs for them on this machine."""

from typing import Any

from megatron_srp.errors import UsageError


def prepare_object_storage(paths: list[str], config: Any) -> None:
    """Keep the sample indices of shards on object storage in the folder that has their own indices.

    Megatron's default is a folder next to the shard, which it would make on this machine as `./s3:/BUCKET/...`.

    Args:
        paths: data paths.
        config: Megatron's GPTDatasetConfig, or a subclass; `path_to_cache` is set in place.

    Raises:
        UsageError: for settings with which Megatron cannot read them.
    """
    remote = [path for path in paths if "://" in path]
    if not remote:
        return
    if config.object_storage_cache_path is None:
        raise UsageError(f"{remote[0]}: pass --object-storage-cache-path FOLDER, on this machine, for its index")
    if config.mmap_bin_files:
        raise UsageError(f"{remote[0]}: cannot be mapped into memory; pass --no-mmap-bin-files")
    if config.path_to_cache is None:
        config.path_to_cache = config.object_storage_cache_path
