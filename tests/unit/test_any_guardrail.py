"""`--guard any-guardrail:NAME` with the package's own classes where it is installed, else with ones of their shape."""

import sys
from dataclasses import dataclass, field
from enum import StrEnum
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.annotation.guards import any_guardrail
from megatron_srp.cli.guard_flags import GUARD_HELP
from megatron_srp.errors import GuardError, UsageError
from megatron_srp.schema import SAFE, SafetyLabel, Verdict


@dataclass
class Category:
    name: str
    triggered: bool | None = None


@dataclass
class Output:
    valid: bool
    score: float | None = None
    categories: list[Category] = field(default_factory=list)


class Names(StrEnum):
    DUOGUARD = "duo_guard"


def shaped() -> tuple[Any, type, type]:
    module: Any = ModuleType("any_guardrail")

    class AnyGuardrail:
        @classmethod
        def create(cls, name, **options):
            return cls._get_guardrail_class(name)(**options)  # type: ignore[attr-defined]

    module.AnyGuardrail, module.GuardrailName = AnyGuardrail, Names
    return module, Output, Category


@pytest.fixture(params=["installed", "shaped"])
def package(request, monkeypatch):
    if request.param == "installed":
        module = pytest.importorskip("any_guardrail")
        from any_guardrail.types import CategoryResult, GuardrailOutput

        output, category = GuardrailOutput, CategoryResult
    else:
        module, output, category = shaped()
        monkeypatch.setitem(sys.modules, "any_guardrail", module)
        monkeypatch.setattr(any_guardrail, "version", lambda package: "0.7.7")

    class Guardrail:
        def __init__(self, word="bomb", scores=True):
            self.word, self.scores = word, scores

        def validate(self, text):
            found = self.word in text
            named = [category(name="violence", triggered=found), category(name="fraud", triggered=False)]
            return output(valid=not found, score=(0.9 if found else 0.2) if self.scores else None, categories=named)

    monkeypatch.setattr(module.AnyGuardrail, "_get_guardrail_class", lambda name: Guardrail, raising=False)
    return module


def load(name="any-guardrail:duo-guard", threshold=None, **options):
    return load_guard(name, GuardOptions(threshold=threshold, engine_options=options))


def test_what_is_not_valid_is_unsafe_with_its_categories(package):
    guard = load(word="kill")
    assert guard.classify(["They kill.", "a bomb"]) == [SafetyLabel(Verdict.UNSAFE, ("violence",)), SAFE]
    assert [one.score for one in guard.results(["They kill.", "a bomb"])] == pytest.approx([0.9, 0.8])
    assert guard.harm_probabilities(["They kill."]) == pytest.approx([0.9])
    assert guard.settings["options"] == {"word": "kill"} and guard.settings["guard"] == "any-guardrail:duo_guard"


def test_a_threshold_compares_the_score(package):
    assert [label.verdict for label in load(threshold=0.1).classify(["a river"])] == [Verdict.UNSAFE]
    assert "no score" in load(threshold=0.1, scores=False).results(["a river"])[0].failure
    assert np.isnan(load(scores=False).harm_probabilities(["a river"])).all()


def test_mistakes_are_one_line(package):
    with pytest.raises(UsageError, match=r"any-guardrail has no 'duo_gard'; .*did you mean 'duo_guard'"):
        load("any-guardrail:duo_gard")
    with pytest.raises(GuardError, match=r"cannot be made: TypeError: .*'wrod'"):
        load(wrod="x")
    with pytest.raises(UsageError, match="does not accept --guard-mode"):
        load_guard("any-guardrail:duo_guard", GuardOptions(mode="prompt"))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "any_guardrail", None)
    with pytest.raises(UsageError, match=r"pip install 'megatron-srp\[guardrails\]'"):
        load()
    assert "any-guardrail:NAME" in GUARD_HELP
