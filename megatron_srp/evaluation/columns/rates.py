"""Several learning rates: an attacker tries them all and takes the best, so a column of one rate flatters the model.

The best is another where a forced reflection on the prompt has to be passed: a rate that succeeds most without one may
leave the model's verdicts as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from megatron_srp.evaluation.column import ColumnResult

TOLD_APART, DESPITE = "told apart", ", forced reflection"  # measures, and the end of their names
_BY_UNDERSTANDING = ("reference", "harmbench", "llm", "mixed", "strict", "heuristic")


def most_successful(rates: Sequence[float], run: Callable[[float], ColumnResult]) -> ColumnResult:
    """The column of the rate with the highest success, by the judge that understands most; what is about the forced
    reflection, of the rate with the highest success despite it. Its facts have all rates."""
    results = [run(rate) for rate in rates]
    tried = [{"learning rate": rate, **_shares(result)} for rate, result in zip(rates, results, strict=True)]
    best = max(results, key=_success)
    despite = max(results, key=lambda result: (_success(result, DESPITE), _success(result)))
    return _joined(best, despite, {"by_learning_rate": tried})


def _joined(best: ColumnResult, despite: ColumnResult, facts: Mapping[str, Any]) -> ColumnResult:
    """`best` with what `despite` has about the forced reflection."""
    taken = {m.name: m for m in despite.measures if m.name == TOLD_APART or m.name.endswith(DESPITE)}
    if not taken:
        return replace(best, facts={**best.facts, **facts})
    labels = {m.label or m.name for m in taken.values()}
    rows = zip(best.facts["before_and_after"], despite.facts["before_and_after"], strict=True)
    compared = {name: despite.facts[name] for name in ("defences_compared",) if name in despite.facts}
    facts = {
        **best.facts,
        **compared,
        "before_and_after": [other if other["measure"] in labels else own for own, other in rows],
        "attack_despite_forced_reflection": despite.facts["attack"],
        **facts,
    }
    return replace(best, measures=[taken.get(m.name, m) for m in best.measures], facts=facts)


def _shares(result: ColumnResult) -> dict[str, Any]:
    """What was measured in %."""
    return {m.name: round(100 * m.estimate.value, 2) for m in result.measures if m.estimate and m.unit == "%"}


def _success(result: ColumnResult, suffix: str = "") -> float:
    found = _shares(result)
    return next((found[name + suffix] for name in _BY_UNDERSTANDING if name + suffix in found), 0.0)
