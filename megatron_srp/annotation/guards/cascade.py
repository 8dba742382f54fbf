"""A cheap guard in front of an expensive one: `--guard cascade:FILE.yaml`.

    front: {guard: "front:front.safetensors"}   # any guard with probabilities, with the options of an ensemble's member
    back: {guard: qwen3guard, engine: vllm}     # any guard, another cascade: too
    target: {miss: 0.01, confidence: 0.95}      # of: Unsafe, or harmful, which counts Controversial too
    audit: 0.005                                # share of what the front settles that the back judges all the same

The front settles as Safe what has a probability of harm below the threshold of `srp calibrate`, which is in
FILE.calibration.json; the back judges the rest. What is audited depends on the text alone, so that a resumed job audits
the same segments; its verdict is the back's.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from megatron_srp.annotation.base import Guard, GuardResult, StringArray, labels_of
from megatron_srp.annotation.cascade.bound import Target
from megatron_srp.annotation.cascade.watch import AuditWatch
from megatron_srp.annotation.store.settling import AUDIT, BACK, FRONT
from megatron_srp.annotation.store.store import THRESHOLD
from megatron_srp.errors import GuardError
from megatron_srp.files import digest
from megatron_srp.schema import SAFE, SafetyLabel


class CascadeGuard(Guard):
    """Asks the back only where the front is not sure.

    Args:
        front: a guard with probabilities.
        back: a guard.
        target: what it promises.
        threshold: the front settles what has a lower probability of harm.
        audit: share of that which the back judges all the same.
        source: its file, for messages.
    """

    name, is_cascade = "cascade", True

    def __init__(
        self, front: Guard, back: Guard, target: Target, threshold: float, audit: float, source: str = "cascade"
    ) -> None:
        self.front, self.back, self.target, self.audit, self.source = front, back, target, audit, source
        self.threshold = float(np.float32(threshold))  # as precise as the probabilities it is compared with
        self.revision = f"{front.revision}+{back.revision}"
        self._seed = int(digest(front.settings)[:16], 16)  # another one for each cascade of a nested one
        self.watch = AuditWatch(target, source)

    @property
    def settings(self) -> dict[str, Any]:
        target = {"miss": self.target.miss, "confidence": self.target.confidence, "of": self.target.of}
        own = {"guard": self.name, "revision": self.revision, "target": target, "audit": self.audit}
        return own | {THRESHOLD: self.threshold, "front": self.front.settings, "back": self.back.settings}

    @property
    def preferred_workers(self) -> int:
        return max(self.front.preferred_workers, self.back.preferred_workers)

    @property
    def incidents(self) -> Counter[str]:
        """The incidents of front and back."""
        return self.front.incidents + self.back.incidents

    def close(self) -> None:
        self.front.close()
        self.back.close()

    def in_mode(self, mode: str) -> "CascadeGuard":
        front, back = self.front.in_mode(mode), self.back.in_mode(mode)
        return CascadeGuard(front, back, self.target, self.threshold, self.audit, self.source)

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return self.classify_array(pa.array(texts, pa.large_string()))

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        return self.classify_counted(texts)[0]

    def classify_counted(self, texts: StringArray) -> tuple[list[SafetyLabel], Counter[str]]:
        """Labels, and numbers of texts by stage and verdict (`store.settling`)."""
        labels = [SAFE] * len(texts)
        _, asked, found = self._judge(texts)
        for i, label in zip(asked.tolist(), labels_of(found), strict=True):
            labels[i] = label
        return labels, _counts(len(labels) - len(asked), found)

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        return self.results_array(pa.array(texts, pa.large_string()))

    def results_array(self, texts: StringArray) -> list[GuardResult]:
        harms, asked, found = self._judge(texts)
        results = [GuardResult(SAFE, 1 - harm, stage=FRONT, harm=harm) for harm in harms.tolist()]
        for i, result in zip(asked.tolist(), found, strict=True):
            results[i] = result
        return results

    def _judge(self, texts: StringArray) -> tuple[np.ndarray, np.ndarray, list[GuardResult]]:
        """float32[N] probabilities of harm, int64[K] the texts that the back judged, and its results."""
        array = texts if isinstance(texts, pa.LargeStringArray) else pa.array(texts.to_pylist(), pa.large_string())
        harms = self._harms(array)
        below = harms < self.threshold  # False for NaN
        audited = below & self._audited(array) if self.audit else np.zeros(len(harms), bool)
        asked = np.flatnonzero(~below | audited)
        stages = np.where(audited[asked], AUDIT, BACK).tolist()
        given = self.back.results_array(array.take(pa.array(asked))) if len(asked) else []
        found = [_staged(*one) for one in zip(given, stages, harms[asked].tolist(), strict=True)]
        self.watch.add(_counts(len(harms) - len(asked), found))
        return harms, asked, found

    def _harms(self, texts: pa.LargeStringArray) -> np.ndarray:
        harms = self.front.harm_probabilities_array(texts)
        if len(harms) and np.isnan(harms).all():
            raise GuardError(f"cascade {self.source}: its front, {self.front.name}, has no probabilities")
        return harms

    def _audited(self, texts: pa.LargeStringArray) -> np.ndarray:
        """bool[N]: which texts are in the audit, if they are settled."""
        limit = int(self.audit * 2**64)
        hashes = (xxhash.xxh3_64_intdigest(text, self._seed) for text in texts.cast(pa.large_binary()).to_pylist())
        return np.fromiter((value < limit for value in hashes), bool, len(texts))


def _counts(settled: int, found: Sequence[GuardResult]) -> Counter[str]:
    counts = Counter(f"{one.stage} {'none' if one.failure else one.label.verdict}" for one in found)
    return counts + Counter({f"{FRONT} {SAFE.verdict}": settled})


def _staged(result: GuardResult, stage: str, harm: float) -> GuardResult:
    path = f"{stage}>{result.stage}" if result.stage else stage
    return GuardResult(result.label, result.score, result.failure, result.votes, path, harm)
