"""Calibrate a cascade: both guards judge a random sample, and the threshold between them is chosen."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.cascade.bound import Choice, Target, choose_threshold
from megatron_srp.annotation.classify_segments import classify_segments, failures_explained
from megatron_srp.annotation.store.part import FAILED
from megatron_srp.errors import InputError, UsageError
from megatron_srp.statistics.wilson import wilson

_AT_ONCE = 4096  # segments


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample that both guards judged: float32[N] `harms`, bool[N] `harmful`, and how many had no verdict."""

    harms: np.ndarray
    harmful: np.ndarray
    failed: int = 0


def judge_sample(front: Guard, back: Guard, texts: pa.LargeStringArray, target: Target) -> Judged:
    """Both guards' verdicts; segments on which the back fails are left out.

    Raises:
        UsageError: for a front without probabilities.
    """
    harms, harmful, known = [], [], []
    for at in range(0, len(texts), _AT_ONCE):
        some = texts.slice(at, _AT_ONCE)
        with failures_explained(front):
            harms.append(front.harm_probabilities_array(some))
        verdicts = classify_segments(back, some)
        counted = np.array([*(target.counts(label.verdict) for label in verdicts.labels), False])
        harmful.append(counted[verdicts.codes])
        known.append(verdicts.codes != FAILED)
    if not harms:
        raise InputError("the sample has no segment; pass --input with texts")
    given = np.concatenate(known)
    judged = Judged(np.concatenate(harms)[given], np.concatenate(harmful)[given], int((~given).sum()))
    if np.isnan(judged.harms).all():
        raise UsageError(f"the front, {front.name}, gives no probabilities; choose one that does, such as front:FILE")
    return judged


def calibrate(judged: Judged, target: Target) -> Choice:
    """The threshold that meets the target.

    Raises:
        InputError: where none does, or the sample cannot show it.
    """
    choice = choose_threshold(judged.harms, judged.harmful, target)
    if not choice.settled:
        raise InputError(
            f"no threshold reaches the target, {target}, and settles anything: to the front, a harmful segment of the "
            "sample is no more suspicious than any other; train it on more verdicts, or allow a larger miss"
        )
    return choice


def describe(choice: Choice, judged: Judged, target: Target) -> list[str]:
    """What was chosen, in lines."""
    share = choice.settled / choice.segments
    low, high = wilson(share, choice.segments)
    failed = f", {judged.failed:,} more without a verdict" if judged.failed else ""
    return [
        f"sample: {choice.segments:,} segments, {choice.harmful:,} of them harmful to the back{failed}",
        f"threshold: {choice.threshold:.6g}, with {choice.missed:,} of the harmful segments below it: at most "
        f"{choice.bound:.2%} are missed ({target.confidence:.3g} confidence)",
        f"settled by the front: {share:.1%} of the segments ({low:.1%} to {high:.1%})",
    ]
