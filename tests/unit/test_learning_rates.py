"""Of several learning rates that an attacker tries, which one counts."""

import pytest

from megatron_srp.evaluation.column import ColumnResult, ColumnSpec, Measure
from megatron_srp.evaluation.columns.rates import most_successful
from megatron_srp.statistics.paired import Estimate

SPEC = ColumnSpec("openers", "tampering")


def tampered(rate: float, **percent: float) -> ColumnResult:
    """A column of one rate, with measures in percent; `_` stands for the comma in a measure's name."""
    shares = {name.replace("__", ", ").replace("_", " "): value / 100 for name, value in percent.items()}
    measures = [Measure(name, Estimate(share, share, share, 64)) for name, share in shares.items()]
    rows = [{"measure": name, "unit": "%", "before": 0.0, "after": 100 * share} for name, share in shares.items()]
    detectors = [{"defence": "forced", "told apart %": percent.get("told_apart")}]
    facts = {"attack": {"lr": rate}, "before_and_after": rows, "defences_compared": detectors}
    return ColumnResult(SPEC, measures, facts=facts)


def test_a_guarded_model_is_attacked_at_the_rate_that_passes_its_guard():
    """1e-4 succeeds most, and leaves the forced reflection as it was; who has to pass it takes 3e-4."""
    by_rate = {
        1e-4: tampered(1e-4, reference=46, reference__forced_reflection=0, told_apart=99, right_answers=80),
        3e-4: tampered(3e-4, reference=38, reference__forced_reflection=30, told_apart=80, right_answers=73),
        1e-3: tampered(1e-3, reference=11, reference__forced_reflection=11, told_apart=54, right_answers=30),
    }
    found = most_successful(list(by_rate), by_rate.__getitem__)
    shares = {m.name: round(100 * m.estimate.value) for m in found.measures}
    assert shares == {"reference": 46, "reference, forced reflection": 30, "told apart": 80, "right answers": 80}
    assert [row["after"] for row in found.facts["before_and_after"]] == pytest.approx([46, 30, 80, 80])
    assert found.facts["attack"] == {"lr": 1e-4} and found.facts["attack_despite_forced_reflection"] == {"lr": 3e-4}
    assert found.facts["defences_compared"][0]["told apart %"] == 80
    assert [row["told apart"] for row in found.facts["by_learning_rate"]] == [99, 80, 54]


def test_where_nothing_passes_the_guard_the_rate_that_succeeds_most_counts():
    by_rate = {
        rate: tampered(rate, reference=share, reference__forced_reflection=0, told_apart=apart)
        for rate, share, apart in ((1e-4, 20, 100), (3e-4, 40, 95))
    }
    found = most_successful(list(by_rate), by_rate.__getitem__)
    assert found.facts["attack"] == found.facts["attack_despite_forced_reflection"] == {"lr": 3e-4}


def test_without_a_forced_reflection_there_is_one_best_rate():
    by_rate = {rate: tampered(rate, heuristic=share) for rate, share in ((1e-4, 20), (3e-4, 40))}
    found = most_successful(list(by_rate), by_rate.__getitem__)
    assert found.facts["attack"] == {"lr": 3e-4} and "attack_despite_forced_reflection" not in found.facts
