"""Sidecars on S3: copied whole to this machine, where they are mapped into memory.

fetch_sidecar("s3://bucket/out/w200.srp", "cache")
copy_of("s3://bucket/out/w200.srp")     # cache/bucket/out/w200.srp, in this process
"""

from pathlib import Path

from megatron_srp.errors import InputError
from megatron_srp.remote.copies import cached_object
from megatron_srp.remote.drivers import on_s3

_copies: dict[str, Path] = {}


def fetch_sidecar(url: str, folder: str | Path) -> None:
    """Copy a sidecar into `folder`, unless it is there as it is on S3 now.

    Raises:
        InputError: when there is none, or S3 fails.
        OutputError: when the folder cannot be written to.
    """
    _copies[url] = cached_object(url, folder)


def is_fetched(path: str | Path) -> bool:
    """Whether `fetch_sidecar` has copied it in this process."""
    return str(path) in _copies


def copy_of(path: str | Path) -> str:
    """The copy of a sidecar on S3; of one on this machine, its own path.

    Raises:
        InputError: for one that was not fetched.
    """
    if not on_s3(str(path)):
        return str(path)
    if not is_fetched(path):
        raise InputError(f"{path}: is not copied to this machine; pass --object-storage-cache-path FOLDER for its copy")
    return str(_copies[str(path)])
