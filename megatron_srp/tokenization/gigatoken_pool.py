"""gigatoken over flat arrays: a few instances that threads share, and a bound on the size of their caches."""

import ctypes
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.tokenization.base import TokenBatch

_LONGEST_REASON = 120  # characters
# gigatoken caches every distinct word it meets, some 90 bytes each, and never frees it: a corpus with many
# hashes, numbers or misspellings would fill the memory. An instance is dropped when the process has grown
# by this much since the first; making a new one and filling its cache again takes 0.2 s.
_GROWTH = 512 << 20  # bytes
_GROWTH_PER_THREAD = 64 << 20  # batches in progress
_LEAST_TEXT = 64 << 20  # bytes encoded before an instance is dropped, whatever else uses the memory
_MANY_THREADS = 4
_THREADS_PER_INSTANCE = 2  # encoding is less than half of what a thread of the data job does


def _reason(error: Exception) -> str:
    """Its message, shortened to a line: it quotes the tokenizer's regular expressions, which may list a vocabulary."""
    line = str(error).partition("\n")[0]
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 4].rstrip() + " ..."


class GigatokenPool:
    """Encodes batches on the calling thread, without the GIL.

    Args:
        spec: a tokenizer.json.
        threads: how many will encode at once.

    Attributes:
        dropped: number of instances dropped because they outgrew their bound.

    Raises:
        ValueError: when gigatoken cannot run this tokenizer.
    """

    def __init__(self, spec: str, threads: int = 1) -> None:
        self._spec = spec
        # An instance encodes one batch at a time, and making one takes up to a second: threads wait for one.
        self._free = threading.Semaphore(-(-threads // _THREADS_PER_INSTANCE))
        self._idle: list[_Instance] = []
        self._limit = resident_bytes() + _GROWTH + threads * _GROWTH_PER_THREAD
        self.dropped = 0
        first = self._make()
        self._idle.append(first)
        # For SentencePiece gigatoken keeps its cache from call to call only where it encodes one document
        # at a time, which takes a third of the time but holds the GIL: a few threads gain, many lose.
        self._one_by_one = (
            type(first.tokenizer.backend).__name__ == "SentencePieceTokenizer" and threads < _MANY_THREADS
        )

    def _make(self) -> "_Instance":
        import gigatoken

        try:
            return _Instance(gigatoken.Tokenizer.from_json(self._spec))
        except Exception as error:  # it raises whatever its Rust code meets
            raise ValueError(_reason(error)) from None

    def encode(self, batch: TextBatch) -> TokenBatch:
        """The ids of every document of the batch."""
        with self._free:
            instance = self._take()
            try:
                instance.text += len(batch.text)
                return self._encode(instance.tokenizer, batch)
            finally:
                self._idle.append(instance)

    def _encode(self, tokenizer: Any, batch: TextBatch) -> TokenBatch:
        if self._one_by_one:
            text, at = batch.text.tobytes(), batch.offsets.tolist()
            return TokenBatch.from_arrays([tokenizer.encode(text[at[i] : at[i + 1]]) for i in range(len(batch))])
        ragged = tokenizer.encode_batch(_as_awkward(batch), parallel=False).layout
        offsets = np.asarray(ragged.offsets.data, dtype=np.int64)
        return TokenBatch(np.asarray(ragged.content.data)[offsets[0] : offsets[-1]], offsets - offsets[0])

    def _take(self) -> "_Instance":
        """An idle instance, or a new one where there is none or the process has outgrown its bound."""
        try:
            instance = self._idle.pop()
        except IndexError:  # all are at work, in other threads
            return self._make()
        if instance.text > _LEAST_TEXT and resident_bytes() > self._limit:
            del instance
            self.dropped += 1
            return_freed_memory()
            return self._make()
        return instance


@dataclass(slots=True)
class _Instance:
    """One of gigatoken's tokenizers, and how many bytes it has encoded."""

    tokenizer: Any
    text: int = 0


def resident_bytes() -> int:
    """Anonymous memory of this process, in bytes; 0 where /proc is not Linux's."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _as_awkward(batch: TextBatch) -> Any:
    """The batch as gigatoken takes it without a copy."""
    import awkward as ak

    layout = ak.contents.ListOffsetArray(
        ak.index.Index64(batch.offsets),
        ak.contents.NumpyArray(batch.text, parameters={"__array__": "char"}),
        parameters={"__array__": "string"},
    )
    return ak.Array(layout)
