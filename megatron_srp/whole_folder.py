"""Folders written atomically: complete or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.files import sync, try_lock


@contextmanager
def whole_folder(out: Path, overwrite: bool, marker: str) -> Iterator[Path]:
    """A temporary folder next to `out`, renamed to `out` when the block succeeds.

    Args:
        out: its final place.
        overwrite: replace what is there, if it holds `marker` or nothing (so that a typo
            cannot remove another folder).
        marker: name of a file that every result has.

    Raises:
        UsageError: when `out` exists and may not be replaced, or another run is writing it.
        OutputError: when writing fails; what was there before is untouched.
    """
    out = out.absolute()
    partial = out.with_name(f"{out.name}.partial")
    lock = None
    try:
        _refuse_existing(out, overwrite, marker)
        partial.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(partial, out)
        _empty(partial)  # left by a killed run
        yield partial
        _sync(partial)
        _replace(partial, out)
    except OSError as error:
        raise OutputError(f"{error.filename or out}: {error.strerror or error}; nothing was written to {out}") from None
    finally:
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def _refuse_existing(out: Path, overwrite: bool, marker: str) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise UsageError(f"{out} exists already; pass --overwrite to replace it, or pass another folder")
    if not out.is_dir() or (any(out.iterdir()) and not (out / marker).is_file()):
        raise UsageError(f"{out} holds no {marker}, so --overwrite does not replace it; pass another folder")


def _take_lock(partial: Path, out: Path) -> int:
    descriptor = os.open(partial, os.O_RDONLY)
    if not try_lock(descriptor):
        os.close(descriptor)
        raise UsageError(f"another run is writing {out}; wait for it, or pass another folder")
    return descriptor


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _replace(partial: Path, out: Path) -> None:
    old = out.with_name(f"{out.name}.old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)
