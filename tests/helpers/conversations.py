"""Conversations of tests: their parts, and files of them."""

import json
from collections.abc import Sequence
from pathlib import Path

from megatron_srp.sft.conversation import Kind, Part
from tests.conftest import random_texts

GUARD = "python:tests.conftest:KeywordGuard"
SAFE = Part(Kind.REFLECTION, "<think> Safe </think>")
UNSAFE = Part(Kind.REFLECTION, "<think> Unsafe: Violent, PII </think>")


def text(words: str) -> Part:
    return Part(Kind.TEXT, words)


def write(path: Path, rows: Sequence[object]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def chat_file(folder: Path, n: int = 40) -> Path:
    texts = random_texts(5, n, most_words=30)
    return write(folder / "chat.jsonl", [{"prompt": f"Q{i}?", "response": t} for i, t in enumerate(texts)])
