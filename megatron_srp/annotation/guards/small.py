"""A `small` front as a guard: one pass in C over text that is in memory anyway.

It knows words and not their meaning, so it is no substitute for a big guard: it is the front of a cascade, which asks
the big guard wherever this one is not sure (`cascade`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard, GuardResult, StringArray
from megatron_srp.annotation.fronts.features import score_batch
from megatron_srp.annotation.fronts.front_file import Front
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.errors import UsageError
from megatron_srp.schema import SAFE, SafetyLabel, Verdict

PREFIX = "front:"
UNSAFE = SafetyLabel(Verdict.UNSAFE)


class SmallGuard(Guard):
    """Calls a text Unsafe from a probability of harm on, without categories.

    Args:
        front: the model.
        name: recorded with its verdicts.
        threshold: the probability; by default the front's.
    """

    def __init__(self, front: Front, name: str = "small", threshold: float | None = None) -> None:
        if threshold is not None and not 0 < threshold < 1:
            raise UsageError(f"--guard-threshold {threshold}: pass a probability between 0 and 1")
        self.front, self.name, self.revision = front, name, front.revision
        self.threshold = threshold or front.threshold

    @property
    def settings(self) -> dict[str, Any]:
        return {"guard": self.name, "revision": self.revision, "threshold": self.threshold}

    @property
    def preferred_workers(self) -> int:
        return 2  # the pass in C releases the GIL

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return self.classify_array(pa.array(texts, pa.large_string()))

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        labels = [SAFE] * len(texts)
        for i in np.flatnonzero(self.harm_probabilities_array(texts) >= self.threshold).tolist():
            labels[i] = UNSAFE
        return labels

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        return self.results_array(pa.array(texts, pa.large_string()))

    def results_array(self, texts: StringArray) -> list[GuardResult]:
        return [
            GuardResult(UNSAFE, harm) if harm >= self.threshold else GuardResult(SAFE, 1 - harm)
            for harm in self.harm_probabilities_array(texts).tolist()
        ]

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        return self.harm_probabilities_array(pa.array(texts, pa.large_string()))

    def harm_probabilities_array(self, texts: StringArray) -> np.ndarray:
        array = texts if isinstance(texts, pa.LargeStringArray) else pa.array(texts.to_pylist(), pa.large_string())
        return self.front.probabilities(*score_batch(TextBatch.from_arrow(array), self.front.weights))
