"""A guard's verdicts on a batch of segments as arrays, whatever the guard does with a segment.

A segment may get no verdict: the guard says so, or it raises. One that raises is found by halving the
batch, so that a single text cannot cost the verdicts of its neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard, GuardResult
from megatron_srp.annotation.store.part import FAILED
from megatron_srp.errors import SrpError, UsageError
from megatron_srp.schema import SAFE, SafetyLabel

_MOST_RAISES = 16  # one behind the other; beyond, it is the guard that is broken and not a text
_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Of S segments.

    Attributes:
        codes: int64[S] numbers in `labels`, FAILED where there is no verdict.
        labels: the distinct labels.
        scores: float32[S] probabilities of the verdicts, NaN where there is none.
        failures: by segment, why it has no verdict.
        votes: by segment, what the members of an ensemble said where they disagree.
    """

    codes: np.ndarray
    labels: list[SafetyLabel]
    scores: np.ndarray
    failures: dict[int, str] = field(default_factory=dict)
    votes: dict[int, tuple[GuardResult, ...]] = field(default_factory=dict)


def judge_segments(guard: Guard, texts: pa.LargeStringArray) -> Verdicts:
    """The guard's verdicts on all texts.

    Raises:
        UsageError: when the guard fails on text after text, or returns the wrong number of verdicts.
        SrpError: that the guard itself raises, e.g. because its endpoint is not there.
    """
    judged = list(_judge(guard, texts, [_MOST_RAISES]))
    numbers: dict[SafetyLabel, int] = {}
    codes = [FAILED if j.failure else numbers.setdefault(j.label, len(numbers)) for j in judged]
    scores = [float("nan") if j.failure else j.score for j in judged]
    return Verdicts(
        np.array(codes, np.int64),
        list(numbers),
        np.array(scores, np.float32),
        {i: _shorten(j.failure) for i, j in enumerate(judged) if j.failure},
        {i: j.votes for i, j in enumerate(judged) if len({vote.label.verdict for vote in j.votes}) > 1},
    )


def _judge(guard: Guard, texts: pa.LargeStringArray, raises_left: list[int]) -> Iterator[GuardResult]:
    try:
        judged = guard.judge_array(texts)
        raises_left[0] = _MOST_RAISES
    except SrpError:
        raise
    except Exception as error:  # a guard may be anybody's code
        if len(texts) > 1:
            half = len(texts) // 2
            yield from _judge(guard, texts[:half], raises_left)
            yield from _judge(guard, texts[half:], raises_left)
            return
        raises_left[0] -= 1
        reason = f"the guard raised {type(error).__name__}: {error}"
        if raises_left[0] < 0:
            raise UsageError(f"guard {guard.name} fails on text after text; {_shorten(reason)}") from error
        judged = [GuardResult(SAFE, failure=reason)]
    if len(judged) != len(texts):
        raise UsageError(f"guard {guard.name} gave {len(judged)} verdicts for {len(texts)} texts; that is its mistake")
    yield from judged


def _shorten(reason: str) -> str:
    reason = " ".join(reason.split())
    return reason if len(reason) <= _REASON_CHARACTERS else f"{reason[: _REASON_CHARACTERS - 3]}..."
