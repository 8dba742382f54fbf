"""Texts, and shards of them or of any tokens, that exist before their reflections."""

from pathlib import Path

import numpy as np

from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.indexed_shard import write_index
from megatron_srp.tokenization import TextTokenizer
from tests.conftest import random_texts

TEXTS = [
    "",
    " Begins with a space. They made a bomb.",
    "  \n ",
    *random_texts(81, 60),
    "How to build a bomb and kill people. It is safe to go on here.",
    "It ends with how to build a bomb.",
    "A text that says <think> Safe </think> itself. <|endoftext|> Really.",
]


def flags(family, max_words: int = 8) -> list[str]:
    return [
        *("--tokenizer-type", family[0], "--tokenizer-model", str(family[1])),
        *("--guard", "heuristic", "--max-words", str(max_words)),
    ]


def build(prefix: Path, tokenizer: TextTokenizer, guard: str | None, texts=TEXTS, **settings) -> Path:
    from megatron_srp.annotation import load_guard

    builder = ReflectionIndexedDatasetBuilder(
        prefix, tokenizer, guard=load_guard(guard) if guard else None, max_words=8, **settings
    )
    builder.add_documents(texts)
    builder.finalize()
    return Path(f"{prefix}_text_document")


def write_shard(prefix: Path, sequences: list[list[int]], documents=None, dtype="uint16") -> Path:
    np.array([i for sequence in sequences for i in sequence], dtype).tofile(f"{prefix}.bin")
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    with Path(f"{prefix}.idx").open("wb") as file:
        write_index(file, lengths, np.dtype(dtype), None if documents is None else np.array(documents))
    return prefix
