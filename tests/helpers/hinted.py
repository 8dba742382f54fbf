"""A small corpus with verdicts and hints, made by the real commands; a server writes the hints."""

import json
from pathlib import Path

from megatron_srp.cli import annotate as annotate_cli
from megatron_srp.cli import hints as hints_cli
from tests.conftest import random_texts
from tests.helpers.endpoint import Endpoint

TEXTS = [random_texts(41, 40, most_words=90), [*random_texts(42, 30, most_words=90), "", "He walked. She said so."]]
MAX_WORDS = "12"


def answer(body: dict) -> dict:
    """A hint of its own for almost every pair; some replies are no hints."""
    n = sum(map(ord, body["messages"][1]["content"]))
    hint = "long " * 16 if n % 5 == 0 else f"The river {n} is café."
    return {"model": "writer", "choices": [{"message": {"role": "assistant", "content": hint}}]}


def make_hinted_corpus(root: Path) -> Path:
    """Two files, a.jsonl and b.jsonl, of TEXTS in `root`, and a store with verdicts and hints on both."""
    files = []
    for name, texts in zip("ab", TEXTS, strict=True):
        files.append(str(root / f"{name}.jsonl"))
        Path(files[-1]).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    store = str(root / "store")
    common = ["--input", *files, "--store", store]
    assert annotate_cli.main([*common, "--guard", "heuristic", "--max-words", MAX_WORDS]) == 0
    with Endpoint(answer, model="writer") as endpoint:
        assert hints_cli.main([*common, "--endpoint", endpoint.url, "--model", "writer"]) == 0
    return root
