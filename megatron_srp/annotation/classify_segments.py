"""A guard's verdicts on a batch of segments as arrays, even when the guard fails on some.

A segment gets no verdict when the guard returns a failure or raises. A text on which it raises is found by
halving the batch, so that it does not cost its neighbours their verdicts.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard, GuardResult, checked_labels, checked_results, labels_of
from megatron_srp.annotation.extensions import describe
from megatron_srp.annotation.store.part import FAILED
from megatron_srp.annotation.store.settling import BACK, Settling
from megatron_srp.errors import GuardError, SrpError
from megatron_srp.schema import SAFE, SafetyLabel

if TYPE_CHECKING:
    from megatron_srp.annotation.guards.cascade import CascadeGuard

_MOST_RAISES = 16  # in a row; after that many, the guard is broken, and not a text
_REASON_CHARACTERS = 200
_CATEGORY_CHARACTERS = 80  # characters: it is written after every segment of the category


@dataclass(frozen=True, slots=True)
class SegmentVerdicts:
    """The results for S segments.

    Attributes:
        codes: int64[S] numbers in `labels`, FAILED where there is no verdict.
        labels: the distinct labels.
        scores: float32[S] probabilities of the verdicts, NaN where there is none.
        failures: by segment, why it has no verdict.
        votes: by segment, the results of an ensemble's members where they disagree.
        settling: who settled each segment; None where the guard is no cascade.
    """

    codes: np.ndarray
    labels: list[SafetyLabel]
    scores: np.ndarray
    failures: dict[int, str] = field(default_factory=dict)
    votes: dict[int, tuple[GuardResult, ...]] = field(default_factory=dict)
    settling: Settling | None = None


def classify_segments(
    guard: Guard, texts: pa.LargeStringArray, contexts: Sequence[str] | None = None
) -> SegmentVerdicts:
    """The guard's verdicts on all texts, after their contexts where given, with a reason for those that get none.

    Raises:
        GuardError: when the guard fails on many texts in a row, or does not return one result for each text.
        SrpError: raised by the guard itself, e.g. because its endpoint does not answer.
    """
    results = list(_results(guard, texts, contexts, [_MOST_RAISES]))
    numbers: dict[SafetyLabel, int] = {}
    codes = [FAILED if r.failure else numbers.setdefault(r.label, len(numbers)) for r in results]
    _check_categories(guard, numbers)
    scores = [float("nan") if r.failure else r.score for r in results]
    return SegmentVerdicts(
        np.array(codes, np.int64),
        list(numbers),
        np.array(scores, np.float32),
        {i: _shorten(r.failure) for i, r in enumerate(results) if r.failure},
        {i: r.votes for i, r in enumerate(results) if len({vote.label.verdict for vote in r.votes}) > 1},
        _settling(guard, results),
    )


def _settling(guard: Guard, results: Sequence[GuardResult]) -> Settling | None:
    if not guard.is_cascade:
        return None
    stages = np.array([one.stage or BACK for one in results], dtype=str)  # a text that the guard raises on has no stage
    return Settling(stages, np.array([one.harm for one in results], np.float32))


def label_segments(
    guard: Guard, texts: pa.LargeStringArray, contexts: Sequence[str] | None = None
) -> tuple[np.ndarray, list[SafetyLabel]]:
    """int64[S] indices of the texts' labels, and the labels they refer to; every text must get one.

    Raises:
        GuardError: when the guard raises, or does not return one label for each text.
        InputError: where a text gets no verdict.
    """
    with failures_explained(guard):
        if contexts is None:
            labels = checked_labels(guard, guard.classify_array(texts), len(texts))
        else:
            labels = labels_of(checked_results(guard, guard.results_in_context(texts, contexts), len(texts)))
    return _numbered(guard, labels)


def counted_labels(
    guard: "CascadeGuard", texts: pa.LargeStringArray
) -> tuple[np.ndarray, list[SafetyLabel], Counter[str]]:
    """The same of a cascade, with numbers of texts by stage and verdict."""
    with failures_explained(guard):
        labels, counts = guard.classify_counted(texts)
    return *_numbered(guard, labels), counts


def _numbered(guard: Guard, labels: Sequence[SafetyLabel]) -> tuple[np.ndarray, list[SafetyLabel]]:
    numbers: dict[SafetyLabel, int] = {}
    # Guards return the same few objects, and hashing a label takes longer than judging a text by `small`.
    distinct = dict(zip(map(id, labels), labels, strict=True))
    known = {number: numbers.setdefault(label, len(numbers)) for number, label in distinct.items()}
    codes = np.fromiter(map(known.__getitem__, map(id, labels)), np.int64, len(labels))
    _check_categories(guard, numbers)
    return codes, list(numbers)


def guard_results(guard: Guard, texts: Sequence[str]) -> list[GuardResult]:
    """`guard.results`; raises GuardError when the guard raises, or does not return one result for each text."""
    with failures_explained(guard):
        return checked_results(guard, guard.results(texts), len(texts))


@contextmanager
def failures_explained(guard: Guard) -> Iterator[None]:
    """Turns an exception of the guard, which may be third-party code, into a GuardError."""
    try:
        yield
    except SrpError:
        raise
    except Exception as error:
        raise GuardError(f"guard {guard.name} raised {_shorten(describe(error))}") from error


def _results(
    guard: Guard, texts: pa.LargeStringArray, contexts: Sequence[str] | None, raises_left: list[int]
) -> Iterator[GuardResult]:
    try:
        given = guard.results_array(texts) if contexts is None else guard.results_in_context(texts, contexts)
        results = checked_results(guard, given, len(texts))
        raises_left[0] = _MOST_RAISES
    except SrpError:
        raise
    except Exception as error:  # a guard may be third-party code
        if len(texts) > 1:
            half = len(texts) // 2
            for part in (slice(half), slice(half, None)):
                yield from _results(guard, texts[part], contexts and contexts[part], raises_left)
            return
        raises_left[0] -= 1
        reason = f"the guard raised {describe(error)}"
        if raises_left[0] < 0:
            raise GuardError(
                f"guard {guard.name} failed on {_MOST_RAISES + 1} texts in a row; {_shorten(reason)}"
            ) from error
        results = [GuardResult(SAFE, failure=reason)]
    yield from results


def _check_categories(guard: Guard, labels: Iterable[SafetyLabel]) -> None:
    """Raises GuardError for a category that a model should not be trained to write."""
    for name in (name for label in labels for name in label.categories):
        if not name.isprintable() or len(name) > _CATEGORY_CHARACTERS:
            raise GuardError(
                f"guard {guard.name}: category {_shorten(repr(name))}; use a name of at most {_CATEGORY_CHARACTERS} "
                "printable characters"
            )


def _shorten(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if len(reason) <= _REASON_CHARACTERS else f"{reason[: _REASON_CHARACTERS - 3]}..."
