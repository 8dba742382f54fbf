"""A folder written whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_srp.durable import sync
from megatron_srp.errors import OutputError, UsageError


@contextmanager
def whole_folder(out: Path, overwrite: bool, marker: str) -> Iterator[Path]:
    """A folder beside `out` to write into, which gets the name `out` when the block ends well.

    Args:
        out: its final place.
        overwrite: replace what is there, if it holds `marker` or nothing (so that a slip of the hand
            removes no other folder).
        marker: name of a file that every result has.

    Raises:
        UsageError: when `out` is there and may not be replaced.
        OutputError: when writing fails; what was there before is untouched.
    """
    out = out.absolute()
    _refuse_existing(out, overwrite, marker)
    partial = out.with_name(f"{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir()
        yield partial
        _sync(partial)
        _replace(partial, out)
    except OSError as error:
        raise OutputError(f"{error.filename or out}: {error.strerror or error}; nothing was written to {out}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(out: Path, overwrite: bool, marker: str) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise UsageError(f"{out} exists already; pass --overwrite to replace it, or give another folder")
    if not out.is_dir() or (any(out.iterdir()) and not (out / marker).is_file()):
        raise UsageError(f"{out} holds no {marker}, so --overwrite does not replace it; give another folder")


def _replace(partial: Path, out: Path) -> None:
    old = out.with_name(f"{out.name}.old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)
