"""The findings of a check of shards: a line for each problem, and a limited number of lines of each kind."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

_LINES_OF_A_KIND = 3


@dataclass(slots=True)
class Findings:
    """Collects findings.

    Attributes:
        unchecked: what could not be checked, and why, a line each.
    """

    unchecked: list[str] = field(default_factory=list)
    _shown: dict[tuple[Path, str], list[str]] = field(default_factory=dict)
    _counts: Counter[tuple[Path, str]] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, path: Path, problem: str) -> None:
        """Add one problem of a file as a whole."""
        self._shown[path, problem] = [f"{path}: {problem}"]
        self._counts[path, problem] = 1

    def add_sequences(self, path: Path, kind: str, sequences: np.ndarray, problems: Iterable[str]) -> None:
        """Add the same kind of damage in several sequences.

        Args:
            kind: short name; only the first few of a kind are shown, the others counted.
            sequences: int64[K], their indices.
            problems: what is wrong with each; a generator is consumed only as far as shown.
        """
        lines = (f"sequence {i} {problem}" for i, problem in zip(sequences, problems, strict=False))
        self.add_each(path, f"sequences with such {kind}", len(sequences), lines)

    def add_each(self, path: Path, kind: str, count: int, problems: Iterable[str]) -> None:
        """Add `count` problems of a kind, of which the first few are shown."""
        shown = self._shown.setdefault((path, kind), [])
        shown += [f"{path}: {problem}" for problem in islice(problems, _LINES_OF_A_KIND - len(shown))]
        self._counts[path, kind] += count

    def lines(self) -> list[str]:
        """A line for each finding; after the first few of a kind, one that counts the others."""
        lines = []
        for (path, kind), shown in self._shown.items():
            lines += shown
            if more := self._counts[path, kind] - len(shown):
                lines.append(f"{path}: and {more:,} more {kind}")
        return lines
