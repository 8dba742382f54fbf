"""Whether the newest checkpoint is complete, which one precedes it, and which are old enough to delete."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_srp.training.process.repair_tracker import TRACKER, complete_checkpoints, latest_iteration

_UNREADABLE = (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError, KeyError)


def checkpoint_folder(folder: Path, iteration: int) -> Path:
    return folder / f"iter_{iteration:07d}"


def find_damage(checkpoint: Path) -> str | None:
    """What is missing from a distributed checkpoint or truncated, or None. Needs torch; reads no tensor."""
    from torch.distributed.checkpoint import FileSystemReader

    if not checkpoint.is_dir():
        return "it does not exist"
    if next(checkpoint.glob("mp_rank_*"), None):  # another format
        return None
    for name in (".metadata", "metadata.json"):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    try:
        json.loads((checkpoint / "metadata.json").read_bytes())
    except ValueError:
        return "metadata.json cannot be read"
    try:
        stored = FileSystemReader(checkpoint).read_metadata().storage_data
    except _UNREADABLE as error:
        return f".metadata cannot be read: {error}"
    return _find_short_file(checkpoint, stored) or _find_damaged_arguments(checkpoint, stored)


def _find_short_file(checkpoint: Path, stored: dict[Any, Any]) -> str | None:
    ends: dict[str, int] = {}
    for part in stored.values():
        ends[part.relative_path] = max(ends.get(part.relative_path, 0), part.offset + part.length)
    for name, end in sorted(ends.items()):
        file = checkpoint / name
        size = file.stat().st_size if file.is_file() else 0
        if size < end:
            return f"{name} has {size:,} bytes of {end:,}"
    return None


def _find_damaged_arguments(checkpoint: Path, stored: dict[Any, Any]) -> str | None:
    """Damage in what every start reads first; torch keeps it as a zip archive, with a checksum."""
    for index, part in stored.items():
        if not index.fqn.startswith("common_state"):
            continue
        with (checkpoint / part.relative_path).open("rb") as file:
            file.seek(part.offset)
            content = io.BytesIO(file.read(part.length))
        try:
            damaged = zipfile.ZipFile(content).testzip()
        except (zipfile.BadZipFile, *_UNREADABLE):
            damaged = part.relative_path
        if damaged:
            return f"its arguments in {part.relative_path} cannot be read"
    return None


def whole_instead_of_latest(folder: Path) -> tuple[int, str] | None:
    """The checkpoint to resume from if the latest is damaged, and a line for the user.

    None if the latest is complete, or no earlier one is: Megatron then loads the latest or says why not.
    Damage inside tensors is found later, by all ranks together, since that reads all of them.
    Each rank gets the same result, whether or not rank 0 has repaired a lost tracker yet.
    """
    latest = latest_iteration(folder)
    damage = None if latest is None else find_damage(checkpoint_folder(folder, latest))
    if latest is None or damage is None:
        return None
    for iteration in complete_checkpoints(folder):
        if iteration < latest and find_damage(checkpoint_folder(folder, iteration)) is None:
            damaged = checkpoint_folder(folder, latest)
            return iteration, f"{damaged} is damaged ({damage}): resuming from the previous iteration, {iteration}"
    return None


def outdated(folder: Path, keep: int, interval: int) -> list[int]:
    """Iterations to delete now that a new checkpoint is complete, as `--srp-keep-checkpoints` says.

    The next older ones after the `keep` newest, except milestones. If the previous one was a milestone,
    Megatron deleted nothing at the last save: hence two. Older ones are left alone, whoever kept them.
    """
    latest = int((folder / TRACKER).read_text())
    done = [iteration for iteration in complete_checkpoints(folder) if iteration <= latest]
    old = [iteration for iteration in done[keep : keep + 2] if iteration % interval]
    return [iteration for iteration in old if not checkpoint_folder(folder, iteration).is_symlink()]


def keep_newest(delete: Callable[..., None], keep: int, interval: Callable[[], int]) -> Callable[..., None]:
    """Megatron's `delete(folder, iteration, ...)` for the previous checkpoint, applied to the outdated ones instead.

    Args:
        keep: how many of the newest stay.
        interval: returns the value of `--save-retain-interval`.
    """

    def delete_outdated(folder: str, iteration: int, *more: Any) -> None:
        local = "://" not in folder
        for old in outdated(Path(folder), keep, interval()) if local else [iteration]:
            delete(folder, old, *more)

    return delete_outdated
