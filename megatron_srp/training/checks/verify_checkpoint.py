"""Read a checkpoint to its last byte. Needs torch, but neither a GPU nor Megatron's trainer."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError
from megatron_srp.training.checks.checkpoint_files import checkpoint_folder, find_damage
from megatron_srp.training.process.repair_tracker import complete_checkpoints, latest_iteration


@dataclass(frozen=True)
class Verified:
    """One iteration's checkpoint: what is wrong with it, one line each, and how much was read."""

    folder: Path
    problems: list[str]
    num_tensors: int = 0
    num_bytes: int = 0


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints to verify: `folder` itself, or the iterations in the folder of --save, newest first.

    Raises:
        InputError: if there is none.
    """
    if folder.name.startswith("iter_") or (folder / ".metadata").exists():
        return [folder]
    latest = latest_iteration(folder)
    iterations = {*complete_checkpoints(folder), *([] if latest is None else [latest])}
    if not iterations:
        raise InputError(f"{folder}: no checkpoint there; pass the folder of --save, or one of its iter_* folders")
    return [checkpoint_folder(folder, iteration) for iteration in sorted(iterations, reverse=True)]


def verify_checkpoint(folder: Path) -> Verified:
    """Check the metadata, that every file is whole, and the checksum of every tensor."""
    damage = find_damage(folder)
    if damage is not None:
        return Verified(folder, [damage])
    if next(folder.glob("mp_rank_*"), None):
        return Verified(folder, ["it is of Megatron's old format, which has no checksums: not verified"])
    parts = parts_of(folder)
    return Verified(folder, list(find_damaged_parts(folder, parts)), len(parts), sum(part.length for _, part in parts))


def parts_of(folder: Path) -> list[tuple[str, Any]]:
    """Name and place of each stored tensor or part of one, in the order of the files."""
    from torch.distributed.checkpoint import FileSystemReader

    stored = FileSystemReader(folder).read_metadata().storage_data
    return sorted(((index.fqn, part) for index, part in stored.items()), key=_place)


def _place(item: tuple[str, Any]) -> tuple[str, int]:
    return item[1].relative_path, item[1].offset


def find_damaged_parts(folder: Path, parts: list[tuple[str, Any]]) -> Iterator[str]:
    """Parts with another checksum than torch has saved with them; torch does not compare it when it loads them."""
    for name, part in parts:
        if _is_damaged(folder / part.relative_path, part.offset, part.length):
            yield f"{name} in {part.relative_path} is damaged"


def _is_damaged(path: Path, offset: int, length: int) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return zipfile.ZipFile(io.BytesIO(file.read(length))).testzip() is not None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return True
