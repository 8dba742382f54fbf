"""One run at a time per output prefix, even while another run removes its work folder."""

import os
from contextlib import suppress
from pathlib import Path

from megatron_srp.errors import UsageError
from megatron_srp.files import try_lock


def take_lock(prefix: Path, folder: Path) -> int:
    """Make the work folder of `prefix` and lock it; the lock ends with the process that holds it.

    Returns:
        A descriptor of FOLDER/lock; closing it releases the lock.

    Raises:
        UsageError: when another run holds it.
    """
    path = folder / "lock"
    while True:
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # a run that has just finished removes its folder
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if not try_lock(descriptor):
                os.close(descriptor)
                raise UsageError(f"another run is writing {prefix}; wait for it, or use another --output-prefix")
            if _is(descriptor, path):
                return descriptor
            os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    """Whether the lock is still the folder's, and not that of a file removed in the meantime."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
