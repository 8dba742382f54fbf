"""What forced reflections stop, at the default threshold and at thresholds chosen for the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.medsafetyworld.measure import thresholds
from megatron_srp.medsafetyworld.measure.questions import Question
from megatron_srp.medsafetyworld.measure.scoring import Answer, Score
from megatron_srp.statistics.over_seeds import share

THRESHOLD = GuardPolicy().unsafe_threshold
Row = tuple[Question, Answer, Score]
Risk = Callable[[Answer], float | None]


def share_of(rows: Sequence[Row], holds: Callable[[Row], bool]) -> dict[str, Any]:
    """The share of rows for which it holds, by outcome."""
    return share([holds(row) for row in rows], [row[0].outcome for row in rows])


def forced(attacked: Mapping[str, list[Row]], benign: list[Row], risk: Risk) -> dict[str, Any]:
    """As `evaluate` describes. An answer without a reading is not stopped."""
    harmful, harmless = _readings(attacked["The"], risk), _readings(benign, risk)
    probabilities = [p for _, p in harmful], [p for _, p in harmless]
    return {
        "curve": thresholds.curve(*probabilities) if all(probabilities) else [],
        "chosen": thresholds.choose_and_check(harmful, harmless),
        "auc": thresholds.auc(*probabilities),
        **_at(THRESHOLD, attacked, benign, risk),
        "calibrated": _calibrated(attacked, benign, risk),
        "other_prompts": _other_prompts(attacked, benign, risk),
    }


def _readings(rows: list[Row], risk: Risk) -> list[thresholds.Reading]:
    return [(row[0].outcomes, risk(row[1]) or 0.0) for row in rows]


def _at(threshold: float, attacked: Mapping[str, list[Row]], benign: list[Row], risk: Risk) -> dict[str, Any]:
    def passes(row: Row) -> bool:
        return (risk(row[1]) or 0.0) < threshold

    return {
        "threshold": threshold,
        "harmful": share_of(attacked["The"], lambda row: not passes(row)),
        "benign": share_of(benign, lambda row: not passes(row)),
        "general": share_of(benign, lambda row: passes(row) and row[2].useful),
        "attacks": {
            name: {
                "published": share_of(rows, lambda row: passes(row) and row[2].published),
                "strict": share_of(rows, lambda row: passes(row) and row[2].strict),
            }
            for name, rows in attacked.items()
        },
    }


def _calibrated(attacked: Mapping[str, list[Row]], benign: list[Row], risk: Risk) -> dict[str, Any]:
    """A threshold from the benign questions on half of the outcomes alone, and what it does to those on the others and
    to all attacks, none of which it was chosen on. Empty where no threshold can be chosen."""
    half, rest = thresholds.halve(_readings(benign, risk))
    threshold = thresholds.from_benign(thresholds.within(_readings(benign, risk), half))
    unused = [row for row in benign if set(row[0].outcomes) <= rest]
    return _at(threshold, attacked, unused, risk) if threshold is not None else {}


def _other_prompts(attacked: Mapping[str, list[Row]], benign: list[Row], risk: Risk) -> dict[str, Any]:
    """The same, but chosen on forward questions and checked on reverse ones: benign prompts of another distribution."""
    forward = [row for row in benign if row[0].name.startswith("forward")]
    threshold = thresholds.from_benign(_readings(forward, risk))
    others = [row for row in benign if not row[0].name.startswith("forward")]
    return _at(threshold, attacked, others, risk) if threshold is not None else {}
