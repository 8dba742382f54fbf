"""The card of a front: what it was trained on, and how good it is on held-out documents."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.fronts.examples import Examples
from megatron_srp.annotation.guard_evaluation.metrics import calibration
from megatron_srp.statistics.wilson import wilson

RECALLS = (0.9, 0.95, 0.99, 0.999)
CAUTION = "The front of a cascade, and no substitute for a big guard."
Probabilities = Callable[[pa.LargeStringArray], np.ndarray]


def measure(probabilities: Probabilities, examples: Examples) -> dict[str, Any]:
    """Figures on the held-out part: accuracy, what is settled at each recall, calibration, speed."""
    texts, harmful = examples.part(2)
    begin = time.process_time()  # of all threads
    harms = probabilities(texts)
    seconds = time.process_time() - begin
    called = harms >= 0.5
    return {
        "segments": len(harms),
        "harmful": int(harmful.sum()),
        "accuracy_on_harmless": float((~called[~harmful]).mean()),
        "accuracy_on_harmful": float(called[harmful].mean()),
        "settled": [settled_at(harms, harmful, recall) for recall in RECALLS],
        "calibration_error": calibration(harmful, harms).error,
        "segments_per_cpu_second": float(f"{len(harms) / max(seconds, 1e-9):.2g}"),
    }


def settled_at(harms: np.ndarray, harmful: np.ndarray, recall: float) -> dict[str, Any]:
    """What the front settles at the highest threshold that finds this share of the harmful segments.

    `share` has Wilson's 95% interval, and is None where there are too few harmful segments to tell."""
    scores = np.sort(harms[harmful])
    missed = int((1 - recall) * len(scores) + 1e-9)
    if missed < 1:
        return {"recall": recall, "threshold": None, "share": None, "low": None, "high": None}
    threshold = float(scores[missed])
    share = float((harms < threshold).mean())
    low, high = wilson(share, len(harms))
    return {"recall": recall, "threshold": threshold, "share": share, "low": low, "high": high}


def describe(card: dict[str, Any]) -> list[str]:
    """The figures in lines."""
    held = card["held_out"]
    lines = [
        f"held out: {held['segments']:,} segments, {held['harmful']:,} of them harmful",
        f"accuracy: {held['accuracy_on_harmless']:.1%} of the harmless, {held['accuracy_on_harmful']:.1%} of the "
        f"harmful at probability 0.5; calibration error {held['calibration_error']:.3f}",
    ]
    for row in held["settled"]:
        found = "too few harmful segments held out to tell"
        if row["share"] is not None:
            share = f"{row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
            found = f"{share} of all segments settled, below {row['threshold']:.3g}"
        lines.append(f"recall {row['recall']:.1%}: {found}")
    return [*lines, f"speed: {held['segments_per_cpu_second']:,.0f} segments per CPU second"]
