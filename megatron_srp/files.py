"""Files durable across power loss, atomic writes, and checksums."""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import xxhash

_BLOCK = 8 << 20
_EDGE = 1 << 16


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """When a write in the block fails (disk full, say), add the file's name, which the system leaves out."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's own, whose message is complete
            raise
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from None


def make_folder(path: Path) -> None:
    """`mkdir -p`, with the name of each new folder on disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder against other processes; False when another holds it.

    The lock is released when the descriptor is closed or the process ends.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def checksum(path: Path) -> dict[str, int | str]:
    """A file's `bytes` and `xxh3_128`, as manifests record them. Memory: a few megabytes for any size."""
    digest, size = xxhash.xxh3_128(), 0
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            digest.update(block[:read])
            size += read
    return {"bytes": size, "xxh3_128": digest.hexdigest()}


def seal(path: Path, name: str) -> dict[str, dict[str, int | str]]:
    """Flush a file, or all files of a folder, to disk. Returns their checksums, by names that begin
    with `name`."""
    if not path.is_dir():
        sync(path)
        return {name: checksum(path)}
    sealed: dict[str, dict[str, int | str]] = {}
    for inner in sorted(path.iterdir()):
        sealed |= seal(inner, f"{name}/{inner.name}")
    sync(path)
    return sealed


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """Write a file atomically: the block writes a temporary file, which is then synced and renamed over `path`.

    Args:
        shared: other processes, on other machines too, may be writing the same file. The temporary file then has a name
            unique to this process; a kill leaves it behind for the caller to remove.
    """
    new = _own_name(path) if shared else path.with_name(f"{path.name}.tmp")
    try:
        with naming(path):
            yield new
            sync(new)
            new.replace(path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def _own_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def write_text(path: Path, text: str) -> Path:
    """Write `text` as UTF-8, atomically. Returns `path`."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")
    return path


def write_text_once(path: Path, text: str) -> None:
    """`write_text`, unless `path` exists by then: of many processes that start at once, exactly one makes it."""
    new = _own_name(path)
    try:
        with naming(path):
            new.write_text(text, encoding="utf-8")
            sync(new)
            try:
                os.link(new, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links: the last writer wins
                new.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_text` of `content` as JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


class Readable(Protocol):
    """A `Path`, or a file elsewhere that can be read like one."""

    def stat(self) -> Any: ...

    def open(self, mode: Any = ..., /) -> Any: ...


def file_fingerprint(path: Readable) -> str:
    """A hash of a file's size, beginning and end: equal for copies, whatever their name and date."""
    size = path.stat().st_size
    with path.open("rb") as file:
        content = xxhash.xxh3_128(file.read(_EDGE))
        file.seek(max(size - _EDGE, 0))
        content.update(file.read(_EDGE))
    return f"{size}-{content.hexdigest()}"


def digest(content: Any) -> str:
    """A short stable hash of a JSON-like value."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return digest_of_bytes(canonical.encode())


def digest_of_bytes(content: bytes) -> str:
    """A short hash."""
    return hashlib.sha256(content).hexdigest()[:32]
