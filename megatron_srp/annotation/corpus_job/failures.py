"""Segments that got no verdict: counted, a few kept as examples, and too many of them stop the job."""

from collections import Counter
from dataclasses import dataclass, field

from megatron_srp.annotation.store.part import Part
from megatron_srp.errors import GuardError
from megatron_srp.remote.remote_file import InputFile

DEFAULT_MAX_FAILURE_RATE = 0.001
_EXAMPLES = 10
# Below this many failures a rate says little: one in the first batch of a billion segments is no reason to stop.
_ENOUGH = 10


@dataclass(slots=True)
class FailureLog:
    """The failures of one run.

    Attributes:
        max_rate: maximum share of failed segments.
        segments, failed: their numbers so far.
        examples: the first few, with file, row and segment counted from 1.
        reasons: how often each reason occurred.
    """

    max_rate: float = DEFAULT_MAX_FAILURE_RATE
    segments: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, file: InputFile, part: Part) -> None:
        """Count the segments of `part`; raises GuardError when far too many failed."""
        self.segments += len(part.codes)
        self.failed += len(part.failures)
        for segment, reason in part.failures.items():
            self.reasons[reason] += 1
            if len(self.examples) < _EXAMPLES:
                document, within = part.document_of(segment)
                self.examples.append(f"{file}, row {part.rows[document] + 1}, segment {within + 1}: {reason}")
        if self.failed >= _ENOUGH:
            self.check_at_end()

    def check_at_end(self) -> None:
        """Raises GuardError when more than `max_rate` of the segments failed."""
        if self.failed > self.max_rate * self.segments:
            raise GuardError(
                f"{self.failed:,} of {self.segments:,} segments got no verdict, more than --max-failure-rate "
                f"{self.max_rate:g}, the first: {self.examples[0]}; finished parts are kept: remove the cause, then "
                "rerun the same command with --retry-failed"
            )
