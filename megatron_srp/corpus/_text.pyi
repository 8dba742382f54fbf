"""See the head of _text.c. N documents; offsets are int64[N+1]; what is written to must have that type already."""

from collections.abc import Buffer, Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8] | bytes
Int64 = NDArray[np.int64]

def pack(texts: list[str], offsets: Int64) -> bytes: ...
def unescape(strings: Sequence[Buffer], offsets: Int64, bad: NDArray[np.uint8]) -> bytes: ...
def segment(
    text: Bytes,
    offsets: Int64,
    max_words: int,
    max_bytes: int,
    abbreviations: str,
    classes: Buffer,
    segment_offsets: Int64,
) -> bytes: ...
def find_characters(text: Bytes, offsets: Int64, characters: Bytes, found: NDArray[np.uint8]) -> None: ...
def count_chars(text: Bytes, offsets: Int64, counts: Int64) -> None: ...
