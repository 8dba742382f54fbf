"""Objects of an S3 store, written whole: an upload that is broken off leaves nothing, or what was there before."""

import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from megatron_srp.errors import OutputError, SrpError, UsageError
from megatron_srp.files import replacing
from megatron_srp.remote.drivers import driver, failure, scheme

WORK_DIR = "srp-work"
_OF_THIS_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EFBIG}


def is_remote_output(name: str, flag: str) -> bool:
    """Whether an output is on S3.

    Raises:
        UsageError: for a place to which nothing is written.
    """
    kind = scheme(name)
    if kind == "hf":
        raise UsageError(f"{flag} {name}: outputs go to this machine or to s3://; upload them with `hf upload`")
    return kind is not None


def twin(url: str, work: str | Path) -> Path:
    """The place on this machine where what belongs at `url` is made.

    Raises:
        UsageError: for a URL with `..` in it, which could be any place.
    """
    return Path(work) / file_name(url.replace("://", "/", 1).rstrip("/"))


def file_name(name: str) -> str:
    """A name from S3, if as a path relative to a folder it stays in that folder.

    Raises:
        UsageError: otherwise.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise UsageError(f"{name!r} on S3: such a name cannot be a file's in a folder here; rename the object")
    return name


def split_output(url: str) -> tuple[str, str]:
    """The folder's URL and the name of an output prefix on S3.

    Raises:
        UsageError: when it lacks the bucket or the name.
    """
    folder, _, name = url.rpartition("/")
    if not name or not re.match("s3://[^/]", folder):
        raise UsageError(f"{url}: is no prefix of files on S3; pass s3://BUCKET/FOLDER/NAME")
    return folder, name


def url_of(place: str | Path, work: str | Path) -> str:
    """The URL of which `place` is the twin; `place` itself where it is outside the work folder."""
    path = Path(place)
    return path.relative_to(work).as_posix().replace("/", "://", 1) if path.is_relative_to(work) else str(place)


class Objects:
    """The objects under a URL, by names relative to it; failed writes are OutputErrors of one line."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @contextmanager
    def _explained(self, name: str = "") -> Iterator[Any]:
        system = driver(self.url)
        try:
            yield system
        except SrpError:
            raise
        except Exception as error:
            raise OutputError(f"{self._path(name) if name else self.url}: {failure(self.url, error)}") from None

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}"

    def all(self) -> dict[str, dict[str, Any]]:
        """What the store says about each object, by name."""
        with self._explained() as system:
            system.invalidate_cache()
            root = system._strip_protocol(self.url)
            found = system.find(root, detail=True)
            return {path.removeprefix(f"{root}/"): info for path, info in found.items() if info["type"] == "file"}

    def exists(self, name: str) -> bool:
        with self._explained(name) as system:
            system.invalidate_cache()
            return bool(system.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        with self._explained(name) as system:
            return bytes(system.cat_file(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        with self._explained(name) as system:
            system.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        with self._explained(name) as system:
            system.invalidate_cache()
            if system.exists(self._path(name)):
                system.rm_file(self._path(name))

    def upload(self, file: Path, name: str, checksum: str = "") -> None:
        """Write `file` as `name`, with its checksum in the object's metadata."""
        with self._explained(name) as system:
            system.put_file(str(file), self._path(name), Metadata={"xxh3-128": checksum} if checksum else {})

    def has(self, name: str, size: int, checksum: str) -> bool:
        """Whether `upload` has written that very content before."""
        with self._explained(name) as system:
            system.invalidate_cache()
            path = self._path(name)
            if not system.exists(path) or system.info(path)["size"] != size:
                return False
            return bool(system.metadata(path, refresh=True).get("xxh3-128") == checksum)

    def download(self, name: str, file: Path) -> None:
        """Write the object to `file`, atomically."""
        with self._explained(name) as system:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(file, shared=True) as new:
                    system.get_file(self._path(name), str(new))
            except OSError as error:
                if error.errno not in _OF_THIS_MACHINE:
                    raise
                raise OutputError(
                    f"{error.filename or file}: {error.strerror}; the copy of {self._path(name)} goes there: free some "
                    "space, or pass another --work-dir"
                ) from None


class Mirror:
    """A folder on this machine and the same one on S3.

    Args:
        belongs: whether a file, by its name relative to the folder, is on S3 too.
        last: the file without which the others count for nothing.
    """

    def __init__(
        self, url: str, work: str | Path, last: str, belongs: Callable[[str], bool] = lambda name: True
    ) -> None:
        self.objects, self.folder = Objects(url), twin(url, work)
        self._last, self._belongs = last, belongs

    def download(self) -> None:
        """Fetch what is missing here, or newer there."""
        for name, info in self.objects.all().items():
            file = self.folder / file_name(name)
            if not file.exists() or (not _same(file, info) and _written(info) > file.stat().st_mtime):
                self.objects.download(name, file)

    def upload(self) -> None:
        """Write what S3 lacks, or has otherwise."""
        there = self.objects.all()
        names = [str(path.relative_to(self.folder)) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        for name in sorted(filter(self._belongs, names), key=lambda name: name == self._last):
            if name not in there or not _same(self.folder / name, there[name]):
                self.objects.upload(self.folder / name, name)


def _same(file: Path, info: dict[str, Any]) -> bool:
    """Whether an object has the content of `file`; False where its ETag, of many parts, does not tell."""
    if file.stat().st_size != info["size"]:
        return False
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == str(info["ETag"]).strip('"')


def _written(info: dict[str, Any]) -> float:
    when = info["LastModified"]
    return when.timestamp() if isinstance(when, datetime) else float("inf")
