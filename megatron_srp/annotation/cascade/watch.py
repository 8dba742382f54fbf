"""The audit of a running cascade: it stops the job when the target is missed beyond doubt.

Each look at the counts could raise a false alarm, so that looks are few, and share what the target's confidence leaves:
half of it belongs to the look at the end, and the looks on the way, each when the audit has doubled, get a quarter, an
eighth and so on (Bonferroni's inequality).
"""

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.cascade.bound import Tally, Target
from megatron_srp.errors import GuardError

_FIRST_LOOK = 64  # audited segments
_REMEDY = "finished parts are kept: calibrate again on this corpus with `srp calibrate`, then rerun the same command"


class AuditWatch:
    """Counts what a cascade settles, and compares its audit with the target.

    Args:
        target: of the cascade.
        source: its file, for messages.

    Attributes:
        remedy: what the error says to do.
    """

    def __init__(self, target: Target, source: str) -> None:
        self.target, self.source, self.remedy = target, source, _REMEDY
        self.counts: Counter[str] = Counter()
        self._looks = 0
        self._lock = threading.Lock()

    def restart(self, counts: Mapping[str, int]) -> None:
        """Count what earlier runs settled, and nothing else."""
        with self._lock:
            self.counts, self._looks = Counter(counts), 0
        self.add({})

    def add(self, counts: Mapping[str, int]) -> None:
        """Count more segments, by "STAGE VERDICT"; raises GuardError when the target is missed."""
        with self._lock:
            self.counts.update(counts)
            due = 0
            while self.tally.audited >= _FIRST_LOOK << due:
                due += 1
            look, self._looks = due > self._looks, max(due, self._looks)
        if look:
            self._look(1 - (1 - self.target.confidence) / 2 ** (due + 1))

    def check_at_end(self) -> None:
        """The last look; raises GuardError when the target is missed."""
        self._look(1 - (1 - self.target.confidence) / 2)

    @property
    def tally(self) -> Tally:
        return Tally.of(self.counts, self.target)

    def _look(self, confidence: float) -> None:
        tally = self.tally
        low = tally.least_missed(confidence)
        if low > self.target.miss:
            raise GuardError(
                f"cascade {self.source}: at least {low:.2%} of the harmful segments of this corpus are missed "
                f"({tally.missed:,} of {tally.audited:,} audited ones), and its target is {self.target}; "
                f"{self.remedy}"
            )

    def describe(self) -> list[str]:
        """The bound as measured on this corpus, in lines for a report."""
        tally = self.tally
        below = tally.settled + tally.audited
        share = below / max(below + tally.asked, 1)
        confidence = self.target.confidence
        low, high = tally.least_missed(confidence), tally.most_missed(confidence)
        lines = [
            f"cascade {self.source}: the front settled {tally.settled:,} segments and the audit {tally.audited:,} "
            f"({share:.2%} below the threshold), the back {tally.asked:,}"
        ]
        if not tally.audited:
            return [*lines, "audit: no segment of what the front settled; nothing is known about what it missed"]
        found = f"audit: {tally.missed:,} of {tally.audited:,} were harmful: {low:.2%} to {high:.2%} are missed"
        if high <= self.target.miss:
            return [*lines, f"{found}, within the target ({self.target})"]
        return [*lines, f"{found}; the audit is too small to show the target ({self.target}) on this corpus alone"]


def watches(guard: Guard) -> list[AuditWatch]:
    """Those of a cascade and of the cascades nested in it; [] for another guard."""
    found: list[AuditWatch] = []
    at: Any = guard
    while at is not None and at.is_cascade:
        found.append(at.watch)
        at = at.back
    return found
