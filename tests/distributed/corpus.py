"""A small learnable corpus and a tokenizer for it, made without Megatron."""

import json
import struct
from pathlib import Path

import numpy as np

NUM_WORDS = 255
EOS = 255


def write_tokenizer(folder: Path, letter: str = "w", pad_token: str | None = None) -> None:
    """A word-level Hugging Face tokenizer: `w0` ... `w254` and `<|endoftext|>` (id 255)."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    vocabulary = {f"{letter}{i}": i for i in range(NUM_WORDS)} | {"<|endoftext|>": EOS}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=f"{letter}0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    if pad_token is not None:
        config["pad_token"] = pad_token
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def markov_documents(num_documents: int, seed: int = 0) -> list[np.ndarray]:
    """Token ids uint16[K] per document: each word is followed by one of four, and eos ends it."""
    rng = np.random.default_rng(seed)
    successors = rng.integers(NUM_WORDS, size=(NUM_WORDS, 4))
    documents = []
    for length in rng.integers(20, 400, size=num_documents):
        word = int(rng.integers(NUM_WORDS))
        words = []
        for choice in rng.integers(4, size=length):
            words.append(word)
            word = int(successors[word, choice])
        documents.append(np.array([*words, EOS], dtype=np.uint16))
    return documents


def write_shard(prefix: Path, documents: list[np.ndarray]) -> None:
    """Write PREFIX.bin and PREFIX.idx in Megatron's format, one sequence per document."""
    lengths = np.array([len(document) for document in documents], dtype=np.int32)
    pointers = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64) * 2  # bytes
    Path(f"{prefix}.bin").write_bytes(np.concatenate(documents).tobytes())
    uint16_code = 8
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, uint16_code, len(lengths), len(lengths) + 1)
    indices = np.arange(len(lengths) + 1, dtype=np.int64)
    Path(f"{prefix}.idx").write_bytes(header + lengths.tobytes() + pointers.tobytes() + indices.tobytes())


def write_manifest(prefix: Path, tokenizer: Path) -> None:
    """The part of PREFIX.srp.json that training reads, for the shard PREFIX_text_document."""
    from megatron_srp.data.shards.manifest import FORMAT_VERSION, manifest_path
    from megatron_srp.tokenization import tokenizer_fingerprint

    kind = "HuggingFaceTokenizer"
    fingerprint = tokenizer_fingerprint(kind, tokenizer)
    manifest = {
        "format_version": FORMAT_VERSION,
        "tokenizer": {"type": kind, "model": str(tokenizer), "fingerprint": fingerprint},
        "shards": [{"name": f"{prefix.name}_text_document"}],
    }
    manifest_path(prefix).write_text(json.dumps(manifest))
