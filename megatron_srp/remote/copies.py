"""Copies of objects on this machine, which are fetched again when the object has changed."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.files import file_fingerprint, replacing, try_lock
from megatron_srp.remote.drivers import driver, failures_explained
from megatron_srp.remote.expand import input_file
from megatron_srp.remote.objects import file_name


def copy_object(url: str, copy: Path) -> None:
    """Copy an object to `copy`, unless it is there.

    Raises:
        InputError: when there is no such object, or the storage cannot be reached.
        OutputError: when the copy cannot be written.
    """
    there = input_file(url)
    try:
        if copy.exists() and file_fingerprint(copy) == file_fingerprint(there):
            return
        copy.parent.mkdir(parents=True, exist_ok=True)
        with replacing(copy, shared=True) as new, failures_explained(url):
            driver(url).get_file(url, str(new))
    except OSError as error:
        raise OutputError(f"{error.filename or copy}: {error.strerror}; the copy of {url} goes there") from None


@contextmanager
def reading_folder(folder: Path) -> Iterator[None]:
    """Have `folder` for copies of what one run reads: empty at the beginning of the block, and at its end.

    A copy of an earlier run would hide what has become of its object.

    Raises:
        UsageError: when another run has it.
        OutputError: when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"{error.filename}: {error.strerror}; pass another --work-dir") from None
    try:
        if not try_lock(descriptor):
            raise UsageError(f"another run reads from S3 through {folder}; wait for it, or pass another --work-dir")
        _empty(folder)
        try:
            yield
        finally:
            _empty(folder)
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True)


def cached_object(url: str, folder: str | Path) -> Path:
    """The copy of an object in a folder that processes share, of which one fetches it.

    The copy of s3://BUCKET/NAME is FOLDER/BUCKET/NAME, where Megatron keeps the index of a shard as well.

    Raises:
        InputError, OutputError: as `copy_object` does.
        UsageError: for a URL with `..` in it.
    """
    copy = Path(folder) / file_name(url.split("://", 1)[1])
    with _one_at_a_time(copy):
        copy_object(url, copy)
    return copy


@contextmanager
def _one_at_a_time(copy: Path) -> Iterator[None]:
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        lock = copy.with_name(f"{copy.name}.lock").open("w")
    except OSError as error:
        raise OutputError(f"{error.filename}: {error.strerror}; choose another folder") from None
    with lock:
        with suppress(OSError):  # a file system without locks: each process fetches it, which does no harm
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
