"""Shards of conversations: made of ids by hand, or by the real command."""

import json
from pathlib import Path

import numpy as np

from megatron_srp.data.shards.indexed_shard import write_index
from megatron_srp.data.shards.manifest import FORMAT_VERSION, manifest_path
from megatron_srp.reflection import ReflectionFormat
from tests.conftest import random_text

Conversations = list[tuple[list[int], list[int]]]  # ids and mask of each


def write_sft_shard(prefix: Path, conversations: Conversations, form: ReflectionFormat | None = None) -> str:
    """PREFIX.bin, .idx, .mask and .srp.json; returns the prefix."""
    ids = np.concatenate([own for own, _ in conversations]).astype(np.uint16)
    mask = np.concatenate([own for _, own in conversations]).astype(np.uint8)
    Path(f"{prefix}.bin").write_bytes(ids.tobytes())
    Path(f"{prefix}.mask").write_bytes(mask.tobytes())
    with Path(f"{prefix}.idx").open("wb") as file:
        write_index(file, np.array([len(own) for own, _ in conversations], np.int32), ids.dtype)
    manifest = {
        "format_version": FORMAT_VERSION,
        "shards": [{"name": prefix.name}],
        "tokenizer": {"type": "NullTokenizer", "model": "none", "fingerprint": "0" * 32},
        "sft": {"tokens_learned": int(mask.sum()), "reflection": (form or ReflectionFormat()).describe()},
    }
    manifest_path(prefix).write_text(json.dumps(manifest))
    return str(prefix)


def of_lengths(lengths: list[int], seed: int = 0) -> Conversations:
    """Conversations of so many tokens each, with random ids, the second half of which are learned."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(1, 250, n).tolist(), [0] * (n // 2) + [1] * (n - n // 2)) for n in lengths]


def chat_shard(folder: Path, tokenizer: Path, count: int, seed: int = 0, *options: str, name: str = "chat") -> str:
    """The prefix of a shard that `srp sft` makes of random talk, judged by keywords."""
    import random

    from megatron_srp.cli.sft import main

    rng = random.Random(seed)
    rows = [
        [_turn(rng, role) for _ in range(rng.randint(1, 2)) for role in ("user", "assistant")] for _ in range(count)
    ]
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    argv = ["--input", str(source), "--guard", "python:tests.conftest:KeywordGuard", "--mode", "reflection"]
    argv += ["--max-words", "10", "--tokenizer-model", str(tokenizer), "--output-prefix", str(folder / name)]
    assert main([*argv, *options]) == 0
    return str(folder / f"{name}_sft")


def _turn(rng, role: str) -> dict[str, str]:
    return {"role": role, "content": random_text(rng, rng.randint(2, 12))}
