"""gigatoken over flat arrays: an instance for each thread, and a bound on the size of their caches."""

import ctypes
import os
import threading
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
        self._thread = threading.local()  # an instance per thread: its cache takes a lock
        self._limit = resident_bytes() + _GROWTH + threads * _GROWTH_PER_THREAD
        self.dropped = 0
        backend = type(self._tokenizer().backend).__name__
        # For SentencePiece gigatoken keeps its cache from call to call only where it encodes one document
        # at a time, which takes a third of the time but holds the GIL: a few threads gain, many lose.
        self._one_by_one = backend == "SentencePieceTokenizer" and threads < _MANY_THREADS

    def _tokenizer(self) -> Any:
        own = self._thread
        if not hasattr(own, "tokenizer"):
            import gigatoken

            try:
                own.tokenizer, own.text = gigatoken.Tokenizer.from_json(self._spec), 0
            except Exception as error:  # it raises whatever its Rust code meets
                raise ValueError(_reason(error)) from None
        return own.tokenizer

    def encode(self, batch: TextBatch) -> TokenBatch:
        """The ids of every document of the batch."""
        self._forget()
        tokenizer = self._tokenizer()
        self._thread.text += len(batch.text)
        if self._one_by_one:
            text, at = batch.text.tobytes(), batch.offsets.tolist()
            return TokenBatch.from_arrays([tokenizer.encode(text[at[i] : at[i + 1]]) for i in range(len(batch))])
        ragged = tokenizer.encode_batch(_as_awkward(batch), parallel=False).layout
        offsets = np.asarray(ragged.offsets.data, dtype=np.int64)
        return TokenBatch(np.asarray(ragged.content.data)[offsets[0] : offsets[-1]], offsets - offsets[0])

    def _forget(self) -> None:
        """Drop this thread's instance where the process has outgrown its bound."""
        own = self._thread
        if hasattr(own, "tokenizer") and own.text > _LEAST_TEXT and resident_bytes() > self._limit:
            del own.tokenizer
            self.dropped += 1
            return_freed_memory()


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
