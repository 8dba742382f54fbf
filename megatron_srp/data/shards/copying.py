"""Copies bytes from file to file in the kernel, without using memory."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 28
_BLOCK = 4 << 20
# Errors of kernels and file systems that cannot do it: across file systems, over some networks.
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EIO}


def append_file(source: Path, target: BinaryIO) -> None:
    """Append `source` to `target`, an unbuffered file positioned at its end; holes stay holes.

    File systems that can share blocks between files (XFS, btrfs) do so, and copy nothing.
    """
    start = target.tell()
    with source.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for begin, end in _extents(file.fileno(), size):
            _copy(file.fileno(), target.fileno(), begin, end, start)
    target.truncate(start + size)
    target.seek(start + size)


def allocated(path: Path) -> int:
    """The bytes that a file occupies on disk; fewer than its size where it has holes."""
    status = path.stat()
    return min(status.st_size, status.st_blocks * 512)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of the file that hold data."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, end


def _copy(source: int, target: int, begin: int, end: int, shift: int) -> None:
    """Copy bytes begin..end of `source` to begin + shift of `target`."""
    while begin < end:
        try:
            copied = os.copy_file_range(source, target, min(end - begin, _CHUNK), begin, begin + shift)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            copied = 0
        copied = copied or os.pwrite(target, os.pread(source, min(end - begin, _BLOCK), begin), begin + shift)
        if not copied:
            raise OSError(errno.EIO, "became shorter while it was copied")
        begin += copied
