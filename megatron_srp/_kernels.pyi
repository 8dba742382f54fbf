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
def reflected_lengths(
    offsets: Buffer, entries: Buffer, table_offsets: Buffer, hint_offsets: Buffer, lengths: Buffer, sums: Buffer
) -> None: ...
def read_reflected(
    tokens: Buffer,
    first: int,
    count: int,
    cuts: Buffer,
    entries: Buffer,
    begin: int,
    end: int,
    table: Buffer,
    table_offsets: Buffer,
    hints: Buffer,
    hint_offsets: Buffer,
    sums: Buffer,
    offset: int,
    item_size: int,
    out: Buffer,
) -> None: ...
def find_characters(text: Buffer, offsets: Buffer, characters: bytes, found: Buffer) -> None: ...
def count_chars(text: Buffer, offsets: Buffer, counts: Buffer) -> None: ...
