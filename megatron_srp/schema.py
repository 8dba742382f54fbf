"""The central types: what a segment, a verdict, a label and an annotated document are."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from megatron_srp.errors import UsageError


class Segment(NamedTuple):
    """A half-open range of character offsets, `text[start:end]`."""

    start: int
    end: int


class Verdict(StrEnum):
    """A guard's verdict on a segment (the three levels of Qwen3Guard), ordered by severity.

    >>> from megatron_srp import Verdict
    >>> [str(verdict) for verdict in Verdict], Verdict.from_name("unsafe").badness
    (['Safe', 'Controversial', 'Unsafe'], 2)
    """

    SAFE = "Safe"
    CONTROVERSIAL = "Controversial"
    UNSAFE = "Unsafe"

    @classmethod
    def from_name(cls, name: str) -> "Verdict":
        """The verdict of that name, in any case; raises UsageError for another word."""
        try:
            return cls(name.strip().capitalize())
        except ValueError:
            raise UsageError(f"unknown verdict {name!r}; choose from {', '.join(cls)}") from None

    @property
    def badness(self) -> int:
        """Severity: 0 for Safe; higher is worse."""
        return list(Verdict).index(self)


_RESERVED = frozenset(",<>\n\r")
_RESERVED_IN_HINTS = frozenset("<>\n\r")


@dataclass(frozen=True, slots=True)
class SafetyLabel:
    """A verdict and the categories of harm it was given for, in the guard's order.

    A Safe label may carry a `hint` instead: a few words on what comes next (SRP-Hint).

        >>> from megatron_srp import SafetyLabel, Verdict
        >>> SafetyLabel(Verdict.UNSAFE, ("Violent", "PII")).categories
        ('Violent', 'PII')

    Raises:
        ValueError: for what is not a verdict, and for a category or a hint that could not be read back from a
            reflection's text.
    """

    verdict: Verdict
    categories: tuple[str, ...] = ()
    hint: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.verdict, Verdict):  # a string equals its Verdict but is not the same object
            raise ValueError(
                f"verdict {self.verdict!r}: pass one of Verdict.{', Verdict.'.join(v.name for v in Verdict)}"
            )
        if self.hint and (self.verdict is not Verdict.SAFE or self.categories):
            raise ValueError(f"hint {self.hint!r}: only a Safe label without categories has a hint")
        if self.hint != self.hint.strip() or set(self.hint) & _RESERVED_IN_HINTS:
            raise ValueError(f"hint {self.hint!r}: pass words without <, >, line breaks and outer spaces")
        self._check_categories()

    def _check_categories(self) -> None:
        if not isinstance(self.categories, tuple) or not all(isinstance(name, str) for name in self.categories):
            raise ValueError(f"categories {self.categories!r}: pass a tuple of strings, such as ('Violent',)")
        for name in self.categories:
            if not name.strip() == name != "" or set(name) & _RESERVED:
                raise ValueError(f"category {name!r}: pass a name without commas, <, >, line breaks and outer spaces")


SAFE = SafetyLabel(Verdict.SAFE)


@dataclass(frozen=True, slots=True)
class AnnotatedDocument:
    """A text, the K segments that tile it, and a label for each.

    Raises:
        ValueError: when the segments leave a gap, overlap or do not cover the text, or when the
            number of labels differs from the number of segments.
    """

    id: str
    text: str
    segments: tuple[Segment, ...]
    labels: tuple[SafetyLabel, ...]

    def __post_init__(self) -> None:
        if len(self.segments) != len(self.labels):
            raise ValueError(f"{self.id}: {len(self.segments)} segments but {len(self.labels)} labels")
        edges = [0, *(s.end for s in self.segments)]
        tiled = edges[-1] == len(self.text) and all(
            (a, b) == segment for (a, b), segment in zip(pairwise(edges), self.segments, strict=True)
        )
        if not tiled:
            raise ValueError(f"{self.id}: the segments do not tile its {len(self.text)} characters")
