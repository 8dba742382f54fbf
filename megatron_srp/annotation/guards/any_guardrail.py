"""Any guardrail of Mozilla's any-guardrail (https://github.com/mozilla-ai/any-guardrail) as a guard:
`--guard any-guardrail:duo_guard`, with `--guard-option` for what its constructor takes.

A text is Unsafe where the guardrail finds it not valid, with the categories that it names. It is asked one text at a
time, which is slow: for guards that have no description of their own here, and for comparisons.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import nan
from typing import Any

import numpy as np

from megatron_srp.annotation.base import Guard, GuardOptions, GuardResult, labels_of
from megatron_srp.annotation.extensions import describe
from megatron_srp.errors import GuardError, UsageError, did_you_mean
from megatron_srp.missing_packages import missing_packages_explained
from megatron_srp.schema import SafetyLabel, Verdict

PREFIX = "any-guardrail:"
_PACKAGE = "any-guardrail"


class AnyGuardrailGuard(Guard):
    """Judges by a guardrail.

    Args:
        guardrail: with `validate(text)`, whose result has `valid`, `score` and `categories`.
        name: recorded with its verdicts.
        options: of the guardrail, recorded too.
        threshold: of the guardrail's risk score; by default the guardrail decides.
    """

    def __init__(self, guardrail: Any, name: str, options: Mapping[str, Any], threshold: float | None = None) -> None:
        self.guardrail, self.name, self.constructor_options, self.threshold = guardrail, name, dict(options), threshold
        self.revision = version(_PACKAGE)

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"threshold": self.threshold}

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return labels_of(self.results(texts))

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        return [self._result(self.guardrail.validate(text)) for text in texts]

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([_score(self.guardrail.validate(text)) for text in texts], np.float32)

    def _result(self, found: Any) -> GuardResult:
        score = _score(found)
        if self.threshold is not None and np.isnan(score):
            return GuardResult(failure="the guardrail gave no score to compare with --guard-threshold")
        harmful = not found.valid if self.threshold is None else score >= self.threshold
        if not harmful:
            return GuardResult(score=1 - score)
        names = dict.fromkeys(one.name for one in found.categories if one.triggered)
        return GuardResult(SafetyLabel(Verdict.UNSAFE, tuple(names)), score)


def _score(found: Any) -> float:
    return nan if found.score is None else float(found.score)


def load_any_guardrail(given: str, options: GuardOptions) -> AnyGuardrailGuard:
    """The guard `any-guardrail:NAME`; raises UsageError for an unknown one, GuardError where it cannot be made."""
    if others := [name for name in options.changed() if name not in ("engine_options", "threshold")]:
        flags = ", ".join(f"--guard-{name.replace('_', '-')}" for name in others)
        raise UsageError(f"--guard {given} does not accept {flags}; its options are --guard-option NAME=VALUE")
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise UsageError(f"--guard-threshold {options.threshold}: pass a probability between 0 and 1")
    with missing_packages_explained(f"--guard {given}"):
        from any_guardrail import AnyGuardrail, GuardrailName
    name, known = given.removeprefix(PREFIX).replace("-", "_"), [str(one.value) for one in GuardrailName]
    if name not in known:
        raise UsageError(f"--guard {given}: any-guardrail has no {name!r}; {did_you_mean(name, known)}")
    try:
        guardrail = AnyGuardrail.create(GuardrailName(name), **options.engine_options)
    except Exception as error:  # raised by many libraries
        raise GuardError(f"--guard {given} cannot be made: {describe(error)}") from error
    return AnyGuardrailGuard(guardrail, f"{PREFIX}{name}", options.engine_options, options.threshold)
