"""For rehearsals of `--plan model`: data sets of a few rows, some prose, and a model in miniature that knows nothing."""

import csv
import json
from pathlib import Path

from tests.conftest import random_texts
from tests.helpers.tiny_reflector import WORDS, make_tokenizer, with_trained_template
from tests.helpers.tiny_training import tiny_model

REQUESTS = [f"say: {word}" for word in WORDS]


def write_sets(folder: Path) -> Path:
    """All that the plan reads, named as their authors name them."""
    folder.mkdir(parents=True)
    (folder / "advbench.csv").write_text("".join(f"{request}\n" for request in REQUESTS))
    _write_csv(folder / "harmbench_text.csv", [{"Behavior": r, "BehaviorID": r[5:]} for r in REQUESTS])
    labels = [{"prompt": r, "label": "unsafe" if r.endswith(("kill", "bomb")) else "safe"} for r in REQUESTS]
    _write_csv(folder / "xstest.csv", labels)
    answers = [{"instruction": f"{r} twice", "output": f"{r[5:]} {r[5:]}."} for r in REQUESTS]
    (folder / "alpaca_eval.json").write_text(json.dumps(answers))
    for name in ("gsm8k_test.jsonl", "gsm8k_train.jsonl"):
        rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(12)]
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def _write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_prose(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [{"text": text} for text in random_texts(0, 12, 120)]
    (folder / "prose.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "README.md").write_text("Not prose.")
    return folder


def write_model(folder: Path) -> Path:
    """A Llama of two layers with a chat template, untrained."""
    from transformers import AutoTokenizer

    plain = folder.with_name(f"{folder.name}-plain")
    make_tokenizer(plain, [*REQUESTS, *random_texts(1, 20)])
    tiny_model(AutoTokenizer.from_pretrained(plain), positions=256).save_pretrained(plain)
    return with_trained_template(plain, folder)
