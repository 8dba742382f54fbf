"""See the head of _tokens.c. N documents with S cuts; what is written to must have the named type already."""

from collections.abc import Buffer

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Entries = NDArray[np.uint16]
Bytes = NDArray[np.uint8]

def align(
    tokens: NDArray[np.int32] | NDArray[np.uint32],
    token_offsets: Int64,
    token_bytes: NDArray[np.uint16],
    offsets: Int64,
    ends: Int64,
    segment_offsets: Int64,
    extra: int,
    cuts: Int32,
    exact: NDArray[np.uint8],
) -> None: ...
def interleave(
    tokens: Buffer,
    token_offsets: Int64,
    cuts: Int32,
    entries: Int32,
    segment_offsets: Int64,
    table: Int32,
    table_offsets: Int64,
    flags: Bytes,
    eod: int,
    out_size: int,
    out: Buffer,
    lengths: Int32,
) -> int: ...
def reflected_lengths(
    offsets: Int64,
    cuts: Int32,
    entries: Entries,
    table_offsets: Int64,
    flags: Bytes,
    hint_offsets: Int64,
    lengths: Int32,
    sums: Int64,
) -> None: ...
def read_reflected(
    tokens: Buffer,
    first: int,
    count: int,
    cuts: Int32,
    entries: Entries,
    begin: int,
    end: int,
    table: Buffer,
    table_offsets: Int64,
    flags: Bytes,
    hints: Int32,
    hint_offsets: Int64,
    sums: Int64,
    offset: int,
    item_size: int,
    out: Buffer,
) -> None: ...
def read_mask(
    count: int,
    cuts: Int32,
    entries: Entries,
    begin: int,
    end: int,
    table_offsets: Int64,
    flags: Bytes,
    hint_offsets: Int64,
    sums: Int64,
    offset: int,
    mask: Bytes,
) -> None: ...
