"""Labels of a cascade, with an account of who settled what from which a resumed job continues."""

import threading
from collections import Counter
from typing import Any

import numpy as np

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.cascade.bound import Target
from megatron_srp.annotation.cascade.watch import AuditWatch, watches
from megatron_srp.annotation.classify_segments import counted_labels
from megatron_srp.annotation.guards.cascade import CascadeGuard
from megatron_srp.annotation.store.settling import inner_counts
from megatron_srp.corpus.batch import SegmentBatch, TextBatch
from megatron_srp.data.reflect import GuardLabeler, Labeler, Source
from megatron_srp.schema import SafetyLabel

# A shard does not say who settled a segment, so that only a store can take another threshold halfway.
_REMEDY = (
    "calibrate again on this corpus with `srp calibrate`, then rerun with --overwrite (`srp annotate` keeps what was "
    "judged, and judges again only what the new threshold changes)"
)


class AuditedLabeler(GuardLabeler):
    """Labels from a cascade.

    Batches are judged ahead of the one that is written: what is counted for a resumed run is only what precedes it.
    """

    def __init__(self, guard: CascadeGuard) -> None:
        super().__init__(guard)
        self.cascade = guard
        for watch in watches(guard):
            watch.remedy = _REMEDY
        self._written: Counter[str] = Counter()
        self._ahead: dict[tuple[int, int], Counter[str]] = {}  # by file and last row
        self._lock = threading.Lock()

    def __call__(
        self, source: Source, batch: TextBatch, segments: SegmentBatch
    ) -> tuple[np.ndarray, list[SafetyLabel]]:
        codes, labels, counts = counted_labels(self.cascade, segments.texts(batch))
        if len(source.rows):
            with self._lock:
                self._ahead.setdefault((source.file, int(source.rows[-1])), Counter()).update(counts)
        return codes, labels

    def settled_before(self, file: int, row: int) -> dict[str, int]:
        """Numbers of segments by stage and verdict (`store.settling`) before `row` of file number `file`."""
        with self._lock:
            for place in [place for place in self._ahead if place < (file, row)]:
                self._written += self._ahead.pop(place)
        return dict(sorted(self._written.items()))

    def resume(self, settled: dict[str, int]) -> None:
        """Count what earlier runs settled; raises GuardError when the target is missed."""
        self._written = counts = Counter(settled)
        for watch in watches(self.guard):
            watch.restart(counts)
            counts = inner_counts(counts)

    def check_at_end(self) -> dict[str, int]:
        """All that was settled, once the target has been checked for the last time; raises GuardError."""
        for watch in watches(self.guard):
            watch.check_at_end()
        return self.settled_before(2**62, 0)


def guard_labeler(guard: Guard) -> GuardLabeler:
    """The labeler of any guard."""
    return AuditedLabeler(guard) if isinstance(guard, CascadeGuard) else GuardLabeler(guard)


def settled_at(labeler: Labeler | None, file: int, row: int) -> dict[str, Any]:
    """What a job's position records for `resume_audit`."""
    return {"settled": labeler.settled_before(file, row)} if isinstance(labeler, AuditedLabeler) else {}


def resume_audit(labeler: Labeler | None, position: dict[str, Any] | None) -> None:
    """Resume the audit of an earlier run; raises GuardError when the target is missed."""
    if isinstance(labeler, AuditedLabeler) and position:
        labeler.resume(position["settled"])


def finish_audit(labeler: Labeler | None) -> dict[str, Any]:
    """The manifest's account of a cascade; raises GuardError when the target is missed."""
    return {"settled": labeler.check_at_end()} if isinstance(labeler, AuditedLabeler) else {}


def describe_audit(manifest: dict[str, Any]) -> list[str]:
    """The bound as measured on the corpus of a manifest, in lines; [] where no cascade judged it."""
    counts, lines = Counter(manifest.get("settled", {})), []
    at = manifest["settings"].get("guard_settings", {})
    while counts and "target" in at:
        watch = AuditWatch(Target(**at["target"]), f"of {at['front']['guard']} and {at['back']['guard']}")
        watch.counts = counts
        lines += watch.describe()
        at, counts = at["back"], inner_counts(counts)
    return lines
