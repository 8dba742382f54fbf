"""The paths that this project's is compared with: texts to Megatron shards without reflections.

    python -m megatron_srp.benchmarks.plain_paths WAY TYPE MODEL INPUT.jsonl OUTPUT_PREFIX WORKERS

`hf-pool` is what users have today: documents through the reference tokenizer in a pool of processes.
`gigatoken` is the fastest plain path: batches through gigatoken, as few steps around it as possible.
`whole-file` is the way of Megatron's own fast tool: what it imports, and gigatoken over the file in one call.
"""

import json
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megatron_srp.data.shards.indexed_shard import bin_path, idx_path, token_dtype, write_index
from megatron_srp.tokenization import TextTokenizer, load_tokenizer

_BATCH_BYTES = 16 << 20


class _Shard:
    """PREFIX.bin and .idx, with an end-of-document id after every document."""

    def __init__(self, prefix: Path, tokenizer: TextTokenizer) -> None:
        self._prefix, self._dtype = prefix, token_dtype(tokenizer.vocab_size)
        self._eos, self._lengths = tokenizer.require_eos(), [np.empty(0, np.int32)]
        self._bin = bin_path(prefix).open("wb")

    def add(self, tokens: np.ndarray, ends: np.ndarray) -> None:
        """Documents that end at `ends` in the flat `tokens`."""
        self._bin.write(np.insert(tokens.astype(self._dtype), ends, self._eos).data)
        self._lengths.append(np.diff(ends, prepend=0).astype(np.int32) + 1)

    def finish(self) -> None:
        self._bin.close()
        with idx_path(self._prefix).open("wb") as file:
            write_index(file, np.concatenate(self._lengths), self._dtype)


_tokenizer: TextTokenizer


def _load(kind: str, model: str) -> None:
    global _tokenizer
    _tokenizer = load_tokenizer(kind, model)


def _encode_line(line: bytes) -> list[int]:
    return _tokenizer.encode(json.loads(line)["text"])


def hf_pool(kind: str, model: str, source: Path, prefix: Path, workers: int) -> None:
    """The reference tokenizer, a document at a time, in `workers` processes."""
    shard = _Shard(prefix, load_tokenizer(kind, model))
    with source.open("rb") as lines, multiprocessing.Pool(workers, _load, (kind, model)) as pool:
        for ids in pool.imap(_encode_line, lines, chunksize=32):
            shard.add(np.array(ids), np.array([len(ids)]))
    shard.finish()


def _batches(source: Path) -> Iterator[list[str]]:
    import orjson

    texts: list[str] = []
    size = 0
    with source.open("rb") as lines:
        for line in lines:
            texts.append(orjson.loads(line)["text"])
            size += len(line)
            if size >= _BATCH_BYTES:
                yield texts
                texts, size = [], 0
    yield texts


def gigatoken_plain(kind: str, model: str, source: Path, prefix: Path, workers: int) -> None:
    """Batches of strings through gigatoken on all cores."""
    import gigatoken

    tokenizer = load_tokenizer(kind, model)
    # The form of the tokenizer that gigatoken can run: it refuses SmolLM2's as it is.
    fast = gigatoken.Tokenizer.from_json(tokenizer.fast_json())
    shard = _Shard(prefix, tokenizer)
    for texts in _batches(source):
        ragged = fast.encode_batch(texts, parallel=workers > 1).layout
        shard.add(np.asarray(ragged.content.data), np.asarray(ragged.offsets.data)[1:])
    shard.finish()


def whole_file(kind: str, model: str, source: Path, prefix: Path, workers: int) -> None:
    """The whole file through gigatoken, on all cores, then its shard in one write."""
    import gigatoken
    import megatron.training.arguments  # noqa: F401  the tool has its flags from there; most of its start-up

    tokenizer = load_tokenizer(kind, model)
    fast = gigatoken.Tokenizer.from_json(tokenizer.fast_json())
    layout = fast.encode_files(gigatoken.JsonlFileSource([str(source)], "text"), parallel=workers > 1).layout
    shard = _Shard(prefix, tokenizer)
    shard.add(np.asarray(layout.content.data), np.asarray(layout.offsets.data)[1:])
    shard.finish()


if __name__ == "__main__":
    path = {"hf-pool": hf_pool, "gigatoken": gigatoken_plain, "whole-file": whole_file}[sys.argv[1]]
    path(sys.argv[2], sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]), int(sys.argv[6]))
