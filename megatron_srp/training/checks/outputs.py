"""Check that a run can write its outputs, before it has run for an hour. Imports neither torch nor Megatron."""

import argparse
import tempfile
from pathlib import Path

from megatron_srp.errors import OutputError

_FLAGS = ("--save", "--tensorboard-dir", "--data-cache-path")


def check_outputs(args: argparse.Namespace) -> None:
    """Try to write into each folder of the run, or into its nearest existing parent; leaves nothing behind.

    Raises:
        OutputError: with the flag and the reason.
    """
    for flag in _FLAGS:
        value = getattr(args, flag[2:].replace("-", "_"))
        if value is None or "://" in value:
            continue
        folder = _existing(Path(value))
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OutputError(
                f"{flag} {value} cannot be written: {folder}: {error.strerror}; remove the cause, or pass another "
                "folder"
            ) from None


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
