"""Texts longer than a model's context, classified in windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import GuardResult
from megatron_srp.annotation.engines import Prompts
from megatron_srp.errors import UsageError
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.tokenization.base import TokenBatch


@dataclass(frozen=True, slots=True)
class Windows:
    """Prompts of N texts; M >= N prompts, as some texts may be divided.

    Attributes:
        prompts: M prompts, those of a text in a row.
        owners: int64[M], the text of each; None where every text has one prompt.
        divided: the texts with more than one prompt.
    """

    prompts: Prompts
    owners: np.ndarray | None
    divided: tuple[int, ...]

    @classmethod
    def cut(cls, texts: pa.LargeStringArray, build: Callable[[pa.LargeStringArray], Prompts], room: int) -> "Windows":
        """Prompts of at most `room` tokens, made by `build`. A text whose prompt is longer is halved at the white
        space nearest its middle, and its halves in the same way, until all fit."""
        prompts = build(texts)
        room -= len(prompts.prefix)
        long = np.flatnonzero(np.diff(prompts.rests.offsets) > room)
        if not len(long):
            return cls(prompts, None, ())
        rests = [[prompts.rests[i]] for i in range(len(prompts))]
        for i in long.tolist():
            rests[i] = [r for piece in halves(texts[i].as_py()) for r in _fitting(piece, build, room)]
        owners = np.repeat(np.arange(len(rests)), [len(r) for r in rests])
        flat = TokenBatch.from_arrays([window for r in rests for window in r])
        return cls(Prompts(prompts.prefix, flat), owners, tuple(long.tolist()))


def _fitting(text: str, build: Callable[[pa.LargeStringArray], Prompts], room: int) -> list[np.ndarray]:
    rest = build(pa.array([text], pa.large_string())).rests[0]
    if len(rest) <= room:
        return [rest]
    if len(text) < 2:
        raise UsageError(
            "the model's context leaves no room for a text between the guard's prompt and its answer; use a model "
            "with a longer context, or a larger max_length"
        )
    return [window for half in halves(text) for window in _fitting(half, build, room)]


def halves(text: str) -> tuple[str, str]:
    """`text` cut at the white space nearest its middle within a quarter of its length, or else in its middle."""
    middle, reach = len(text) // 2, len(text) // 4
    near = (middle + step for d in range(reach) for step in (d, -d))
    at = next((i for i in near if text[i].isspace()), middle)
    return text[:at], text[at:]


def join_windows(results: Sequence[GuardResult], owners: np.ndarray) -> list[GuardResult]:
    """One result for each text: the worst verdict of its windows, with the categories and the highest score of
    the windows with that verdict; for Safe the lowest score, as the text is no safer than any window. A failed window
    fails the text, unless another window is Unsafe already."""
    groups = groupby(zip(owners.tolist(), results, strict=True), key=lambda pair: pair[0])
    return [_worst([one for _, one in group]) for _, group in groups]


def _worst(windows: list[GuardResult]) -> GuardResult:
    fine = [w for w in windows if not w.failure]
    failed = next((w for w in windows if w.failure), None)
    worst = max((w.label.verdict for w in fine), key=attrgetter("badness"), default=None)
    if failed and worst is not Verdict.UNSAFE:
        return failed
    if worst is None:
        return windows[0]
    picked = [w for w in fine if w.label.verdict is worst]
    categories = tuple(dict.fromkeys(c for w in picked for c in w.label.categories))
    extreme = min if worst is Verdict.SAFE else max
    return GuardResult(SafetyLabel(worst, categories), extreme(w.score for w in picked))
