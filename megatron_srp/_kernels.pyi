"""See the head of _kernels.c. Arrays go in and out as buffers; their types are named there."""

from collections.abc import Buffer

def pack(texts: list[str], offsets: Buffer) -> bytes: ...
def unescape(strings: list[Buffer], offsets: Buffer, bad: Buffer) -> bytes: ...
def segment(
    text: Buffer, offsets: Buffer, max_words: int, max_bytes: int, abbreviations: str, segment_offsets: Buffer
) -> bytes: ...
def align(
    tokens: Buffer,
    token_offsets: Buffer,
    token_bytes: Buffer,
    offsets: Buffer,
    ends: Buffer,
    segment_offsets: Buffer,
    extra: int,
    cuts: Buffer,
    exact: Buffer,
) -> None: ...
def interleave(
    tokens: Buffer,
    token_offsets: Buffer,
    cuts: Buffer,
    ids: Buffer,
    segment_offsets: Buffer,
    table: Buffer,
    table_offsets: Buffer,
    eod: int,
    out_size: int,
    out: Buffer,
    lengths: Buffer,
) -> int: ...
def find_characters(text: Buffer, offsets: Buffer, characters: bytes, found: Buffer) -> None: ...
def count_chars(text: Buffer, offsets: Buffer, counts: Buffer) -> None: ...
