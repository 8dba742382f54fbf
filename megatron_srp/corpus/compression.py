"""Files as a stream of decompressed blocks; truncation is an error, not an early end."""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import zstandard

from megatron_srp.corpus.file_kinds import refuse_other_kinds
from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile

_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0"
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a zstd frame without content; pzstd's files begin with one
_ZSTD_WINDOW = 1 << 31  # bytes, of `zstd --long=31`, the largest that the library reads
BLOCK = 1 << 20


@dataclass(slots=True)
class Consumed:
    """How many bytes of a file, as stored on disk, have been read so far."""

    bytes: int = 0


def _frames(file: BinaryIO, new: Callable[[], Any], padding: bytes = b"") -> Iterator[bytes]:
    """All frames of the file, in blocks. The libraries' own readers take a truncated zstd frame, or a damaged
    second stream of bzip2, for the end.

    Args:
        new: makes a decompressor of one frame.
        padding: bytes that may appear between frames.
    """
    frame = None
    while data := file.read(BLOCK):
        while data := data if frame else data.lstrip(padding):
            frame = frame or new()
            yield from _decompress(frame, data)
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("compressed file ended before the end-of-stream marker was reached")


def _decompress(frame: Any, data: bytes) -> Iterator[bytes]:
    if isinstance(frame, bz2.BZ2Decompressor | lzma.LZMADecompressor):
        yield frame.decompress(data, BLOCK)
        while not (frame.eof or frame.needs_input):
            yield frame.decompress(b"", BLOCK)
    else:
        yield frame.decompress(data)


def _new_zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


_MAGIC_BYTES = 6


def is_compressed(path: InputFile) -> bool:
    """Whether `read_blocks` decompresses a file."""
    with path.open("rb") as file:
        magic = file.read(_MAGIC_BYTES)
    return bool(magic.startswith((_ZSTD, _BZIP2, _XZ, _GZIP)) or _SKIPPABLE.match(magic))


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    magic = file.read(_MAGIC_BYTES)
    file.seek(0)
    if magic.startswith(_ZSTD) or _SKIPPABLE.match(magic):
        yield from _frames(file, _new_zstd)
    elif magic.startswith(_BZIP2):
        yield from _frames(file, bz2.BZ2Decompressor)
    elif magic.startswith(_XZ):
        yield from _frames(file, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ), padding=b"\0")
    elif magic.startswith(_GZIP):
        with gzip.open(file, "rb") as stream:
            while block := stream.read(BLOCK):
                yield block
    else:
        while block := file.read(BLOCK):
            yield block


def read_blocks(path: InputFile, consumed: Consumed | None = None) -> Iterator[bytes]:
    """The decompressed content of `path`; the format is detected from its first bytes, not its name.

    Args:
        consumed: kept up to date as the file is read.

    Raises:
        InputError: for a damaged or truncated compressed file, and for a file of another kind.
    """
    consumed = consumed or Consumed()
    first = True
    with path.open("rb") as file:
        try:
            for block in _blocks(file):
                consumed.bytes = file.tell()
                if first and block:
                    refuse_other_kinds(path, block)
                    first = False
                yield block
        except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's; gzip's and bz2's have none
                raise
            if "too much memory" in str(error):
                raise InputError(
                    f"{path}: its zstd window is above 2 GiB; compress it with --long=31 or less"
                ) from None
            raise InputError(f"{path}: damaged or truncated ({error}); fetch or compress the file again") from None


def read_lines(path: InputFile, consumed: Consumed | None = None) -> Iterator[bytes]:
    """The lines of `path` without their line breaks, a byte order mark removed."""
    rest: list[bytes] = []
    first = True
    for block in read_blocks(path, consumed):
        if first and block:
            block, first = block.removeprefix(b"\xef\xbb\xbf"), False
        begin = 0
        while (end := block.find(b"\n", begin)) >= 0:  # a fifth of the time of bytes.split
            yield b"".join([*rest, block[begin:end]]) if rest else block[begin:end]
            begin, rest = end + 1, []
        if begin < len(block):
            rest.append(block[begin:])
    if last := b"".join(rest):
        yield last
