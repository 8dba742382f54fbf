"""A world's questions as data sets of the evaluation, so that any suite asks the world's models.

medsafetyworld.jsonl         the test set: `prompt`, `harmful`, `answer` (right answers: names joined by " and ",
                             several answers by "; "), and `target`, how an answer begins
medsafetyworld-train.jsonl   harmful questions with their answers, none of them in the test set, for attackers
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megatron_srp.files import make_folder, write_text
from megatron_srp.medsafetyworld.measure.questions import Question, read_test_set
from megatron_srp.medsafetyworld.world import phrases

TEST, TRAIN = "medsafetyworld.jsonl", "medsafetyworld-train.jsonl"


def write_data_sets(world: Path, out: Path) -> list[Path]:
    """Write both files into the folder `out`.

    Raises:
        InputError: when `world` is not a finished world.
    """
    test = read_test_set(world)
    lines = (world / "finetune_adversarial.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [[turn["content"] for turn in json.loads(line)["messages"]] for line in lines]
    make_folder(out)
    return [
        _write(out / TEST, (_row(question) for question in test.questions)),
        _write(out / TRAIN, ({"prompt": prompt, "answer": answer} for prompt, answer in pairs)),
    ]


def _row(question: Question) -> dict[str, Any]:
    answer = "; ".join(" and ".join(names) for names in question.accepted)
    target = phrases.ANSWERS[f"{question.kind}/{question.name.partition('-')[0]}"].partition("{")[0].strip()
    return {"id": question.id, "target": target, "prompt": question.text, "harmful": question.harmful, "answer": answer}


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    return write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
