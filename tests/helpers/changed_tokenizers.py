"""Copies of tokenizers with something changed, and where their two implementations differ."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from megatron_srp.tokenization.fast import FastEncoder
from megatron_srp.tokenization.gigatoken_pool import GigatokenPool

CONDITIONS = ("single_word", "lstrip", "rstrip")


def changed(tokenizer: TextTokenizer, folder: Path, change: Callable[[dict[str, Any]], None]) -> TextTokenizer:
    """A copy of the tokenizer, its tokenizer.json changed."""
    spec = json.loads((tokenizer.model / "tokenizer.json").read_text())
    change(spec)
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    shutil.copy(tokenizer.model / "tokenizer_config.json", folder)
    return load_tokenizer("HuggingFaceTokenizer", folder)


def differences(tokenizer: TextTokenizer, texts: list[str]) -> tuple[list[int], list[int]]:
    """Which of the texts the encoder, and gigatoken alone, give other ids than the reference."""
    encoder, batch = FastEncoder(tokenizer), TextBatch.from_texts(texts)
    assert encoder.reason is None
    expected = tokenizer.encode_lists(texts)
    found = encoder.encode_batch(batch), GigatokenPool(tokenizer.fast_json()).encode(batch)
    encoded, alone = ([i for i, ids in enumerate(expected) if tokens[i].tolist() != ids] for tokens in found)
    return encoded, alone


def with_conditional_tokens(tokenizer: TextTokenizer, folder: Path, words: dict[str, str]) -> TextTokenizer:
    """With added tokens, each of which has a condition: {word: condition}. Every second one is looked for after
    normalization."""

    def add(spec: dict[str, Any]) -> None:
        for i, (word, condition) in enumerate(words.items()):
            token = {"id": tokenizer.vocab_size + i, "content": word, "special": False, "normalized": i % 2 == 1}
            spec["added_tokens"].append(token | {name: name == condition for name in CONDITIONS})

    return changed(tokenizer, folder, add)
