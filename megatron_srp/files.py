"""Files that are still there after the power went, and checksums that say whether they are the same."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

_BLOCK = 8 << 20
_EDGE = 1 << 16


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Where a write fails (the disk is full), the error has the file's name, which the system leaves out."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from None


def make_folder(path: Path) -> None:
    """`mkdir -p`, with the name of each new folder on disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes; False when another holds it.

    The lock goes with the descriptor, and with the process.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def checksum(path: Path) -> dict[str, int | str]:
    """A file's `bytes` and `xxh3_128`, as manifests record them. Any size in the same few megabytes."""
    digest, size = xxhash.xxh3_128(), 0
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            digest.update(block[:read])
            size += read
    return {"bytes": size, "xxh3_128": digest.hexdigest()}


def seal(path: Path, name: str) -> dict[str, dict[str, int | str]]:
    """Bring a file, or all files of a folder, to the disk. Returns their checksums, by names that begin
    with `name`."""
    if not path.is_dir():
        sync(path)
        return {name: checksum(path)}
    sealed: dict[str, dict[str, int | str]] = {}
    for inner in sorted(path.iterdir()):
        sealed |= seal(inner, f"{name}/{inner.name}")
    sync(path)
    return sealed


def write_text(path: Path, text: str) -> Path:
    """Write whole or not at all: a new file, synced, then renamed over `path`, which is returned."""
    temporary = path.with_name(f"{path.name}.tmp")
    with naming(path), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_text` of `content` as JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def file_fingerprint(path: Path) -> str:
    """Of a file's size, beginning and end: equal for copies, whatever their name and date."""
    size = path.stat().st_size
    with path.open("rb") as file:
        content = xxhash.xxh3_128(file.read(_EDGE))
        file.seek(max(size - _EDGE, 0))
        content.update(file.read(_EDGE))
    return f"{size}-{content.hexdigest()}"


def digest(content: Any) -> str:
    """A short stable hash of a JSON-like value."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
