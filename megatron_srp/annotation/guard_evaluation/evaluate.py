"""Evaluate a guard on labelled texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.annotation.base import Guard, GuardResult
from megatron_srp.annotation.classify_segments import failures_explained, guard_results
from megatron_srp.annotation.guard_evaluation.datasets import Example
from megatron_srp.annotation.guard_evaluation.metrics import (
    Accuracy,
    Calibration,
    accuracy,
    agreement,
    at_thresholds,
    calibration,
    called_harmful,
    confusion,
)
from megatron_srp.errors import UsageError

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        settings: of the guard. controversial: what that verdict counts as.
        accuracies: of each data set, and of all together under "all".
        confusion: for each data set, verdicts by kind of text.
        categories: how often the guard named each.
        thresholds: accuracies over all texts from each probability of harm on.
        agreement: of verdicts read in one pass with written ones, where requested.
        failures: a few of the texts that got no verdict, and why.
    """

    settings: dict[str, Any]
    controversial: str
    accuracies: dict[str, Accuracy]
    confusion: dict[str, dict[str, dict[str, int]]]
    categories: dict[str, int]
    calibration: Calibration
    thresholds: dict[float, Accuracy]
    agreement: dict[str, Any] | None
    failures: list[str]

    def to_json(self) -> str:
        tree = {name: getattr(self, name) for name in self.__slots__}
        tree["accuracies"] = {name: a.to_dict() for name, a in self.accuracies.items()}
        tree["thresholds"] = {str(t): a.to_dict() for t, a in self.thresholds.items()}
        tree["calibration"] = asdict(self.calibration)
        return json.dumps(_without_nan(tree), indent=2) + "\n"


def evaluate(
    guard: Guard,
    datasets: Mapping[str, Sequence[Example]],
    controversial: str = "unsafe",
    thresholds: Sequence[float] = THRESHOLDS,
    with_agreement: bool = False,
) -> Evaluation:
    """Classify all texts; raises UsageError where agreement is asked of a guard with only one mode."""
    other = written_guard(guard) if with_agreement else None
    examples = [example for data in datasets.values() for example in data]
    texts = [example.text for example in examples]
    results = guard_results(guard, texts)
    calls = [called_harmful(one, controversial) for one in results]
    accuracies, tables, at = {}, {}, 0
    for name, data in datasets.items():
        accuracies[name] = accuracy(data, calls[at : at + len(data)])
        tables[name] = {k: dict(c) for k, c in confusion(data, results[at : at + len(data)]).items()}
        at += len(data)
    accuracies["all"] = accuracy(examples, calls)
    harmful = np.array([example.harmful for example in examples])
    with failures_explained(guard):
        probabilities = guard.harm_probabilities(texts)
    return Evaluation(
        settings=guard.settings,
        controversial=controversial,
        accuracies=accuracies,
        confusion=tables,
        categories=_categories(results),
        calibration=calibration(harmful, probabilities),
        thresholds=at_thresholds(examples, probabilities, thresholds),
        agreement=agreement(results, guard_results(other, texts)) if other else None,
        failures=[f"{t[:60]!r}: {one.failure}" for t, one in zip(texts, results, strict=True) if one.failure][:10],
    )


def written_guard(guard: Guard) -> Guard:
    """The same guard writing its answers in full."""
    from megatron_srp.annotation.guards.chat_guard import ChatGuard

    if not isinstance(guard, ChatGuard) or guard.options.generate_all:
        raise UsageError("--agreement compares verdicts read in one pass with written ones; pass a chat guard")
    return guard.writing()


def _categories(results: Sequence[GuardResult]) -> dict[str, int]:
    names = [name for one in results if not one.failure for name in one.label.categories]
    return {name: names.count(name) for name in sorted(set(names), key=names.count, reverse=True)}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def write_json(found: Evaluation, path: Path) -> None:
    path.write_text(found.to_json(), encoding="utf-8")
