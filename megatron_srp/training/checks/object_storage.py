"""Shards and sidecars on object storage: what a run needs for them on this machine, before anything reads them.

Imports neither torch nor Megatron.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from megatron_srp.errors import UsageError
from megatron_srp.missing_packages import missing_packages_explained
from megatron_srp.remote.copies import cached_object
from megatron_srp.remote.drivers import on_s3
from megatron_srp.remote.expand import input_file
from megatron_srp.training.checks.sidecars import shard_of

_AT_ONCE = 16  # shards: each takes a few short requests
_HEADER_BYTES = 26


@dataclass(frozen=True)
class RemoteShard:
    """Attributes:
    index_header: the first 26 bytes of its .idx.
    bin_bytes: the size of its .bin.
    """

    index_header: bytes
    bin_bytes: int


@cache
def remote_shard(prefix: str) -> RemoteShard:
    """What the checks need of a shard on S3, read once in a process.

    Raises:
        InputError: when a file is missing, or S3 cannot be read.
    """
    bin_bytes = input_file(f"{prefix}.bin").stat().st_size
    with input_file(f"{prefix}.idx").open("rb") as index:
        return RemoteShard(index.read(_HEADER_BYTES), bin_bytes)


def prepare_data(paths: Sequence[str], options: Any, sidecars: Sequence[str] = ()) -> None:
    """Copy the sidecars on S3 to this machine, and refuse settings with which Megatron cannot read the shards.

    Args:
        paths: data paths of the run.
        options: Megatron's arguments or its GPTDatasetConfig: `object_storage_cache_path` and `mmap_bin_files`.
        sidecars: as `--srp-sidecar` names them.

    Raises:
        UsageError, InputError: with what to pass or to install, and for files that are not there.
    """
    remote = [path for path in map(shard_of, paths) if "://" in path]
    if remote and options.mmap_bin_files:
        index = " and --object-storage-cache-path FOLDER, on this machine, for its index"
        also = "" if options.object_storage_cache_path else index
        raise UsageError(f"{remote[0]}: cannot be mapped into memory; pass --no-mmap-bin-files{also}")
    for path in [*sidecars, *(path for path in paths if path.endswith(".srp"))]:
        if on_s3(path):
            from megatron_srp.data.shards.sidecar_copies import fetch_sidecar

            fetch_sidecar(path, _folder(options, path, "its copy"))
    if remote:
        folder = _folder(options, remote[0], "its index")
        _look_at([path for path in dict.fromkeys(remote) if on_s3(path)], folder)


def _folder(options: Any, path: str, purpose: str) -> str:
    folder: str | None = options.object_storage_cache_path
    if folder is None:
        raise UsageError(
            f"{path}: pass --object-storage-cache-path FOLDER, on this machine, for {purpose} (in a program, "
            "object_storage_cache_path of its GPTDatasetConfig)"
        )
    return folder


def _look_at(prefixes: Sequence[str], folder: str) -> None:
    """Read what the checks ask of the shards, which the process remembers, and fetch their indices.

    Megatron's first rank fetches an index as well, but the others do not wait for it.
    """
    if not prefixes:
        return
    from megatron_srp.data.shards.manifest import find_manifest
    from megatron_srp.data.shards.sidecar import describe_shard

    def look_at(prefix: str) -> None:
        remote_shard(prefix)
        describe_shard(prefix)
        find_manifest(prefix)
        cached_object(f"{prefix}.idx", folder)

    with missing_packages_explained(f"{prefixes[0]}:"):
        import boto3  # noqa: F401  with which Megatron reads the tokens
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(look_at, prefixes))
