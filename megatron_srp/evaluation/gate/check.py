"""A report compared with criteria. What was not measured does not pass: a gate that opens unseen is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.evaluation.gate.criteria import Criteria, Criterion


@dataclass(frozen=True, slots=True)
class Outcome:
    """A criterion and what was measured, in `unit`; `reason` says why it is not met."""

    criterion: Criterion
    passed: bool
    reason: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    cases: int = 0
    unit: str = ""

    def found(self) -> str:
        """What was measured, in words."""
        if self.value is None:
            return "-"
        interval = "" if self.low is None or self.high is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.value:.4g}{interval} {self.unit}, {self.cases} cases"


def check(criteria: Criteria, report: Mapping[str, Any]) -> list[Outcome]:
    """An outcome for each criterion, in order.

    Raises:
        UsageError: for a criterion on a column or a measure that does not exist.
    """
    columns = {column["name"]: column for column in report["columns"]}
    criteria.check_columns(
        list(columns), f"this evaluation; measure it with --suite {criteria.suite}, or correct the name"
    )
    return [
        _outcome(f"{criteria.source}: criterion {number}", criterion, columns[criterion.column])
        for number, criterion in enumerate(criteria.criteria, 1)
    ]


def passes(outcomes: Sequence[Outcome]) -> bool:
    return all(outcome.passed for outcome in outcomes)


def _outcome(where: str, criterion: Criterion, column: Mapping[str, Any]) -> Outcome:
    if column["not_run"]:
        return Outcome(criterion, False, f"not measured: {column['not_run']}")
    measures = {measure["name"]: measure for measure in column["measures"]}
    if criterion.measure not in measures:
        raise UsageError(
            f"{where}: column {criterion.column!r} has no measure {criterion.measure!r}; "
            f"{did_you_mean(criterion.measure, list(measures))}"
        )
    measure = measures[criterion.measure]
    if measure["value"] is None:
        return Outcome(criterion, False, f"not measured: {measure.get('not_run', 'no cases')}")
    reason = _shortcoming(criterion, measure)
    seen = (measure[name] for name in ("value", "low", "high", "n", "unit"))
    return Outcome(criterion, not reason, reason, *seen)


def _shortcoming(criterion: Criterion, measure: Mapping[str, Any]) -> str:
    """Why a measure does not meet a criterion; "" where it does."""
    if measure["n"] < criterion.cases:
        return f"{measure['n']} cases; at least {criterion.cases} count as evidence"
    end = "low" if criterion.most is None else "high"
    value = measure["value"] if criterion.bound == "value" else measure[end]
    if value is None:
        return "no interval, from a single case"
    if value <= criterion.limit if criterion.most is not None else value >= criterion.limit:
        return ""
    named = "the value" if criterion.bound == "value" else f"the interval's {'upper' if end == 'high' else 'lower'} end"
    return f"{named} is {value:.4g}"
