"""A few answers to read, drawn at random but so that both outcomes are among them."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from megatron_srp.medsafetyworld.measure.questions import Question
from megatron_srp.medsafetyworld.measure.scoring import Answer, Score

PER_KIND = 4


def pick_samples(rows: Mapping[str, Sequence[tuple[Question, Answer, Score]]], seed: int) -> dict[str, Any]:
    """For each kind up to `PER_KIND` answers, as JSON: half of them with a right answer, if enough are."""
    return {name: [_describe(*row) for row in _draw(found, seed)] for name, found in rows.items()}


def _draw(rows: Sequence[tuple[Question, Answer, Score]], seed: int) -> list[tuple[Question, Answer, Score]]:
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    stated = [i for i in order if rows[i][2].stated]
    others = [i for i in order if not rows[i][2].stated]
    half = PER_KIND // 2
    chosen = stated[: max(half, PER_KIND - len(others))] + others[: max(half, PER_KIND - len(stated))]
    return [rows[i] for i in chosen]


def _describe(question: Question, answer: Answer, score: Score) -> dict[str, Any]:
    return {
        "id": question.id,
        "question": question.text,
        "prefill": answer.prefill,
        "answer": answer.text,
        "reflections": list(answer.verdicts),
        "accepted": [list(names) for names in question.accepted],
        "stated": score.stated,
        "wrong": score.wrong,
        "flagged": score.flagged,
        "refused": score.refused,
        "prompt_risk": None if answer.prompt_risk is None else round(answer.prompt_risk, 4),
        "answer_risk": None if answer.answer_risk is None else round(answer.answer_risk, 4),
    }
