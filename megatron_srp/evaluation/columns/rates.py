"""Several learning rates: an attacker tries them all and takes the best, so a column of one rate flatters the model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from megatron_srp.evaluation.column import ColumnResult

_BY_UNDERSTANDING = ("reference", "harmbench", "llm", "mixed", "strict", "heuristic")


def most_successful(rates: Sequence[float], run: Callable[[float], ColumnResult]) -> ColumnResult:
    """The column of the rate with the highest success, by the judge that understands most; its facts have them all."""
    results = [run(rate) for rate in rates]
    tried = [{"learning rate": rate, **_shares(result)} for rate, result in zip(rates, results, strict=True)]
    best = max(results, key=_success)
    return replace(best, facts={**best.facts, "by_learning_rate": tried})


def _shares(result: ColumnResult) -> dict[str, Any]:
    """What was measured in %."""
    return {m.name: round(100 * m.estimate.value, 2) for m in result.measures if m.estimate and m.unit == "%"}


def _success(result: ColumnResult) -> float:
    found = _shares(result)
    return next((found[name] for name in _BY_UNDERSTANDING if name in found), 0.0)
