"""Input files in other places, which readers treat like a `Path`: `name`, `suffix`, `open`, `stat`, `absolute`."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self, cast

from megatron_srp.errors import InputError
from megatron_srp.files import file_fingerprint
from megatron_srp.remote.drivers import driver, failures_explained

_FIRST_AHEAD, _MOST_AHEAD = 1 << 16, 8 << 20  # bytes fetched beyond those asked for
_REQUESTS = 16  # at once, where each file needs a few


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of `os.stat_result` that readers use; size in bytes."""

    st_size: int


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object, in one version.

    Attributes:
        url: as the user names it.
        path: as its driver names it; on the hub with the commit, so that it is always the same content.
        size: in bytes.
        version: changes with the content: the ETag of an S3 object, the hash of a file on the hub.
        commit: of the repository on the hub that it is read from; "" elsewhere.
    """

    url: str
    path: str
    size: int
    version: str
    commit: str = ""

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    def stat(self) -> Stat:
        return Stat(self.size)

    def absolute(self) -> Self:
        return self

    def resolve(self) -> Self:
        return self

    def open(self, mode: str = "rb") -> BinaryIO:
        """The content as a stream that can seek; only what is read is fetched. Errors are InputErrors."""
        assert mode == "rb"
        return cast(BinaryIO, _Stream(self))

    def origin(self) -> dict[str, str]:
        """Where it is from, for a manifest: `place`, and the present `version`, which differs once it is replaced."""
        if self.commit:
            return {"place": self.url, "version": self.version}
        with failures_explained(self.url):
            return {"place": self.url, "version": version_of(driver(self.url).info(self.path, refresh=True))}


InputFile = Path | RemoteFile


def version_of(info: dict[str, Any]) -> str:
    """The version of an object, from what its driver says about it."""
    lfs = info.get("lfs")
    return str((lfs and lfs["sha256"]) or info.get("blob_id") or info.get("xet_hash") or info["ETag"]).strip('"')


def describe_file(file: InputFile) -> dict[str, str]:
    """The record of an input file: its name and fingerprint, and where it is from if it is remote.

    Raises:
        OSError, InputError: when it cannot be read.
    """
    record = {"file": file.name, "fingerprint": file_fingerprint(file)}
    return record | file.origin() if isinstance(file, RemoteFile) else record


def each_file[T](function: Callable[[Any], T], files: Sequence[InputFile]) -> list[T]:
    """`function` of each file, of many remote ones at once: each needs a few short requests."""
    if not any(isinstance(file, RemoteFile) for file in files):
        return [function(file) for file in files]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, files))


class _Stream(io.RawIOBase):
    """A driver's stream whose errors name the file in one line; `read` returns fewer bytes only at the end.

    It fetches what is asked for, and ahead of a reader who goes through the file more and more: the beginning of each
    of a thousand files costs little, and a file read to its end takes few requests.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position, self._ahead = file, 0, _FIRST_AHEAD
        self._buffer, self._buffer_at = b"", 0
        with failures_explained(file.url):
            self._stream = driver(file.url).open(file.path, "rb", cache_type="none", block_size=_MOST_AHEAD)
            if not file.commit and version_of(self._stream.details) != file.version:
                raise InputError(f"{file}: changed since this run began; rerun the command")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        end = self._file.size if size is None or size < 0 else min(self._position + size, self._file.size)
        begin = min(self._position, end)
        if not self._buffer_at <= begin <= end <= self._buffer_end:
            self._fetch(begin, end)
        self._position = end
        return self._buffer[begin - self._buffer_at : end - self._buffer_at]

    @property
    def _buffer_end(self) -> int:
        return self._buffer_at + len(self._buffer)

    def _fetch(self, begin: int, end: int) -> None:
        continues = bool(self._buffer) and self._buffer_at <= begin <= self._buffer_end
        self._ahead = min(2 * self._ahead, _MOST_AHEAD) if continues else _FIRST_AHEAD
        there = self._buffer[begin - self._buffer_at :] if continues else b""
        missing = begin + len(there)
        stop = min(max(end, missing + self._ahead), self._file.size)
        with failures_explained(self._file.url):
            self._stream.seek(missing)
            fetched = self._stream.read(stop - missing)
        if len(fetched) < stop - missing:
            raise InputError(f"{self._file}: ends before its {self._file.size:,} bytes; rerun the command")
        self._buffer, self._buffer_at = there + fetched, begin

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed and hasattr(self, "_stream"):
            self._stream.close()
        super().close()
