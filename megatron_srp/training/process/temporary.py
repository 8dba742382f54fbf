"""A launcher's own folder for temporary files, its ranks' included.

Ranks end at once, without Python's exit, and leave theirs; torchrun and the libraries that the trainer imports do so
anyway. The launcher removes the folder at its end, and at its start those of launchers that were killed: they no longer
hold the lock in theirs.
"""

import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_srp.files import try_lock

_PREFIX = "megatron-srp-"
_LOCK = "launcher.lock"


@contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """Make it the folder for temporary files of this process and those that it starts, until the block is left."""
    base = Path(tempfile.gettempdir())
    # A cache of compiled kernels is no temporary file, though torch keeps it among them.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(base / f"torchinductor_{getpass.getuser()}"))
    _remove_abandoned(base)
    before = os.environ.get("TMPDIR")
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder / "new.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try_lock(lock)  # before it has the name by which another launcher finds it
        (folder / "new.lock").rename(folder / _LOCK)
        _use(str(folder), str(folder))
        yield folder
    finally:
        _use(before, None)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _use(variable: str | None, folder: str | None) -> None:
    tempfile.tempdir = folder
    if variable is None:
        os.environ.pop("TMPDIR", None)
    else:
        os.environ["TMPDIR"] = variable


def _remove_abandoned(base: Path) -> None:
    for lock in base.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:  # another user's, or removed just now
            continue
        try:
            if try_lock(descriptor):
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # a file system without locks
            continue
        finally:
            os.close(descriptor)
