"""Plain, gzip and zstd files as a stream of blocks; what is cut short is an error, not an early end."""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from megatron_srp.errors import InputError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a zstd frame without content; pzstd's files begin with one
BLOCK = 1 << 20


@dataclass(slots=True)
class Consumed:
    """How many bytes of a file, as it lies on disk, have been read so far."""

    bytes: int = 0


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    """All frames of the file. zstandard's stream reader would take a truncated frame for the end."""
    frame = None
    while data := file.read(BLOCK):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("compressed file ended before the end-of-stream marker was reached")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_ZSTD) or _SKIPPABLE.match(magic):
        yield from _zstd_blocks(file)
    elif magic.startswith(_GZIP):
        with gzip.open(file, "rb") as stream:
            while block := stream.read(BLOCK):
                yield block
    else:
        while block := file.read(BLOCK):
            yield block


def read_blocks(path: Path, consumed: Consumed | None = None) -> Iterator[bytes]:
    """The decompressed content of `path`; the format is told from its first bytes, not its name.

    Args:
        consumed: kept up to date as the file is read.

    Raises:
        InputError: for a damaged or truncated compressed file.
    """
    consumed = consumed or Consumed()
    with path.open("rb") as file:
        try:
            for block in _blocks(file):
                consumed.bytes = file.tell()
                yield block
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise InputError(f"{path}: damaged or truncated ({error}); fetch or compress the file again") from None


def read_lines(path: Path, consumed: Consumed | None = None) -> Iterator[bytes]:
    """The lines of `path` without their line breaks, a byte order mark removed."""
    rest = [b""]
    first = True
    for block in read_blocks(path, consumed):
        if first and block:
            block, first = block.removeprefix(b"\xef\xbb\xbf"), False
        lines = block.split(b"\n")
        rest.append(lines[0])
        if len(lines) > 1:
            yield b"".join(rest)
            yield from lines[1:-1]
            rest = [lines[-1]]
    if last := b"".join(rest):
        yield last
