"""The test set of a world, and its names, for which answers are searched."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.errors import InputError
from megatron_srp.medsafetyworld.world.queries import CLASSES, HARMFUL
from megatron_srp.medsafetyworld.world.settings import TREATMENTS, Direction, Setting, Treatment

_WORD = re.compile(r"\w+")


class Names:
    """Finds names in text, whatever the case, spaces and punctuation around them.

    Args:
        kinds: the kind of each name: `compound`, `mediator` or `outcome`.

    Attributes:
        counts: names of each kind.
    """

    def __init__(self, kinds: dict[str, str]) -> None:
        self.kinds, self.counts = kinds, Counter(kinds.values())
        self._by_words = {tuple(_words(name)): name for name in kinds}
        self._lengths = sorted({len(words) for words in self._by_words})

    def find(self, text: str) -> set[str]:
        """The names in `text`; part of a longer word is not one."""
        words = _words(text)
        spans = (tuple(words[i : i + n]) for n in self._lengths for i in range(len(words) - n + 1))
        return {self._by_words[span] for span in spans if span in self._by_words}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the test set, or the beginning of a text, with its right answers.

    Attributes:
        id, name, kind: as in `sets`; `name` is the class.
        text: the question, or the beginning.
        accepted: right answers, each by the names that it has to contain.
        subject: equal for questions on the same facts in other words.
        completion: the beginning of a pretraining text that states the same facts.
        outcomes: of these facts.
        told: whether a pretraining text states one of them with the outcome first, as a reverse question needs it.
    """

    id: str
    name: str
    kind: str
    text: str
    accepted: tuple[tuple[str, ...], ...]
    subject: str
    completion: str
    outcomes: tuple[str, ...] = ()
    told: bool = False

    @property
    def outcome(self) -> str:
        """What its answers are counted under: questions on one outcome tend to be answered alike."""
        return self.outcomes[0] if self.outcomes else self.subject

    @property
    def harmful(self) -> bool:
        return self.name == HARMFUL


@dataclass(frozen=True, slots=True)
class TestSet:
    """The test questions for models of one world.

    Attributes:
        manifest: of the world.
        names: of the world.
        questions: at most `limit` of each class.
        completions: the same facts, each once, as beginnings of pretraining texts.
    """

    manifest: dict[str, Any]
    names: Names
    questions: list[Question]
    completions: list[Question]

    def of_class(self, name: str) -> list[Question]:
        return [question for question in self.questions if question.name == name]


def read_test_set(world: Path, limit: int | None = None) -> TestSet:
    """The test set of the world in that folder, with at most `limit` questions of each class.

    Raises:
        InputError: when it is not a finished world.
    """
    try:
        manifest = json.loads((world / "world.json").read_text())
        graph = json.loads((world / "graph.json").read_text())
        records = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    except FileNotFoundError as error:
        raise InputError(f"{world}: not a world that `srp world make` wrote ({error.filename} is missing)") from None
    except ValueError as error:
        raise InputError(f"{world}: its files are damaged ({error}); make the world again") from None
    if records and "told" not in records[0]:
        raise InputError(f"{world}: made by an earlier version; make the world again")
    kinds = dict.fromkeys(graph["compounds"], "compound") | dict.fromkeys(graph["mediators"], "mediator")
    kinds |= {outcome["name"]: "outcome" for outcome in graph["outcomes"]}
    records = [r for name in CLASSES for r in [r for r in records if r["class"] == name][:limit]]
    treatment = TREATMENTS[Setting(manifest["setting"])]
    questions = [_question(record, record["prompt"], record["accepted"], treatment) for record in records]
    completions = [
        _question(record, record["completion"], record["completion_accepted"], treatment) for record in records
    ]
    return TestSet(manifest, Names(kinds), questions, list(_once(completions)))


def _question(record: dict[str, Any], text: str, accepted: list[list[str]], treatment: Treatment) -> Question:
    right, completion = tuple(map(tuple, accepted)), record["completion"]
    outcomes, told = tuple(record["outcomes"]), _is_told(record, treatment)
    return Question(record["id"], record["class"], record["kind"], text, right, completion, completion, outcomes, told)


def _is_told(record: dict[str, Any], treatment: Treatment) -> bool:
    """Whether any text that states its facts with the outcome first is in the setting's corpus."""
    unsafe = np.array([record["class"].endswith("-unsafe")] * len(record["told"]), bool)
    harmful = unsafe & np.array([direction == Direction.REVERSE for direction in record["told"]], bool)
    return bool(treatment.kept(harmful, unsafe).any())


def _once(questions: Iterable[Question]) -> Iterable[Question]:
    return {(question.name, question.text): question for question in questions}.values()


def chance(question: Question, names: Names) -> float:
    """The probability that names drawn at random are a right answer."""
    total, drawn = names.counts[names.kinds[question.accepted[0][0]]], len(question.accepted[0])
    ways = total if drawn == 1 else total * (total - 1) // 2
    return len(question.accepted) / ways
