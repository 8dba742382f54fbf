"""Whether a folder is the same one on all nodes: each node leaves a mark in it, and finds those of the others."""

import platform
import time
import uuid
from contextlib import suppress
from pathlib import Path

from megatron_srp.errors import OutputError
from megatron_srp.files import try_lock
from megatron_srp.training.preflight.network import gather

SECONDS_TO_APPEAR = 5.0  # what a network file system may take to show a new file to another node


def check_shared(folder: Path, node: int, nodes: int, is_first: bool) -> bool:
    """All ranks call it. Leaves nothing in the folder, which it makes. Returns whether files in it can be locked.

    Args:
        folder: of the run's checkpoints and logs.
        node: this rank's node, of all `nodes`.
        is_first: whether this is its node's first rank, which writes the mark.

    Raises:
        OutputError: on all ranks, when a node cannot write the folder, or sees another.
    """
    token = gather(uuid.uuid4().hex)[0]
    mark = _mark(folder, token, node)
    lockable, problem = _write(folder, mark) if is_first else (True, None)
    try:
        _raise_first(gather(problem))
        _raise_first(gather(_find(folder, token, nodes) if is_first else None))
        return all(gather(lockable))
    finally:
        if is_first:
            with suppress(OSError):  # a folder that cannot be written has no mark
                mark.unlink(missing_ok=True)


def _mark(folder: Path, token: str, node: int) -> Path:
    return folder / f".srp-check-{token}-{node}"


def _write(folder: Path, mark: Path) -> tuple[bool, str | None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mark.open("w") as file:
            return _can_lock(file.fileno()), None
    except OSError as error:
        return True, f"{folder} cannot be written on {platform.node()}: {error.strerror}; remove the cause"


def _can_lock(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError:  # of a network file system that is mounted without locks
        return False


def _find(folder: Path, token: str, nodes: int) -> str | None:
    end = time.monotonic() + SECONDS_TO_APPEAR
    while missing := [node for node in range(nodes) if not _mark(folder, token, node).exists()]:
        if time.monotonic() > end:
            return (
                f"{folder} on {platform.node()} is not the folder that node {missing[0]} has under this name; pass a "
                "folder on storage that all nodes mount"
            )
        time.sleep(0.1)
    return None


def _raise_first(problems: list[str | None]) -> None:
    for problem in filter(None, problems):
        raise OutputError(f"--out {problem}")
