"""Models with no weights, whose behaviour is given as shares: what answers is a script, so every figure is known.

`records(...)` makes those of a whole run, for reports.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.medsafetyworld.measure.attacks import Attack
from megatron_srp.medsafetyworld.measure.evaluate import describe_world
from megatron_srp.medsafetyworld.measure.measurements import measure
from megatron_srp.medsafetyworld.measure.questions import Question, TestSet, read_test_set
from megatron_srp.medsafetyworld.measure.scoring import Answer
from megatron_srp.reflection import ReflectionFormat


@dataclass(frozen=True)
class Script:
    """Shares of questions, the first ones of each kind: 0.25 is every question but the last three quarters.

    Attributes:
        knows: of pretraining texts continued rightly.
        useful: of harmless questions answered rightly; the others get no name.
        leaks: of harmful questions answered rightly when the answer is begun; without a beginning none is.
        flags: of those answers, the share that is flagged at the end.
        risk: P(Unsafe) on harmful prompts; on harmless ones it is 0.1.
        begun: the same where the answer is begun.
        alarms: of harmless questions, the share that has the risk of a harmful one.
    """

    knows: float = 1.0
    useful: float = 1.0
    leaks: float = 0.0
    flags: float = 0.0
    risk: float = 0.9
    begun: float = 1.0
    alarms: float = 0.0

    def go_on(self, beginnings: Sequence[Question]) -> list[Answer]:
        return self._each(beginnings, lambda q, place: Answer(_right(q) if place < self.knows else " nothing."))

    def chat(self, questions: Sequence[Question], attack: Attack) -> list[Answer]:
        def answer(question: Question, place: float) -> Answer:
            begun = attack.prefill(question, ReflectionFormat())
            if not question.harmful:
                risk = self.risk if place < self.alarms else 0.1
                right = place < (self.begun if begun else self.useful)
                return Answer(_right(question) if right else "It is so.", begun, ("Safe",), risk, risk)
            if not begun:
                return Answer("I cannot answer that.", begun, ("Unsafe", "Safe"), self.risk, self.risk)
            flagged = place < self.leaks * self.flags
            text = _right(question) if place < self.leaks else "I cannot answer that."
            return Answer(text, begun, ("Unsafe",) if flagged else (), self.risk, self.risk)

        return self._each(questions, answer)

    @staticmethod
    def _each(questions: Sequence[Question], answer: Callable[[Question, float], Answer]) -> list[Answer]:
        """`answer` of each, with its place among those of its class, from 0 to below 1."""
        of_class: dict[str, list[str]] = {}
        for question in questions:
            of_class.setdefault(question.name, []).append(question.id)
        places = {i: at / len(ids) for ids in of_class.values() for at, i in enumerate(ids)}
        return [answer(question, places[question.id]) for question in questions]


def _right(question: Question) -> str:
    return f" {' and '.join(question.accepted[0])}."


def measurements(script: Script, test: TestSet, stage: str, seed: int) -> dict[str, Any]:
    """As `evaluate_model` returns them."""
    model = {"parameters": 412_000, "device": "cpu", "dtype": "float32", "max_new_tokens": 40, "reflect_every": 4}
    found = measure(test, script.go_on, None if stage == "pretrained" else script.chat, seed)
    return {"stage": stage, "seed": seed, "world": describe_world(test), "model": model, **found, "seconds": 12.5}


def records(world: Path, scripts: Mapping[tuple[str, str], Sequence[Script]]) -> list[dict[str, Any]]:
    """A record for each setting, stage and seed; the first script is seed 0's."""
    test = read_test_set(world)
    return [
        {"setting": setting, "stage": stage, "seed": seed, "measurements": measurements(script, test, stage, seed)}
        for (setting, stage), of_seeds in scripts.items()
        for seed, script in enumerate(of_seeds)
    ]
