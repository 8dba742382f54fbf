"""`calibration.json`, next to a model's config.json: the threshold of its own verdicts, and what it rests on.

With harmful and benign cases the threshold is the recommended one of their curve; with benign cases alone, the 99th
percentile of their P(unsafe).
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from math import sqrt
from pathlib import Path
from typing import Any

import xxhash

from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import checksum, digest, write_json
from megatron_srp.generation.threshold.recommend import at_threshold, percentile_setting, recommend, threshold_curve
from megatron_srp.model_description import find_in_model
from megatron_srp.schema import Verdict
from megatron_srp.statistics.auc import auc
from megatron_srp.statistics.quantile import quantile
from megatron_srp.statistics.wilson import Z95, wilson

FILE = "calibration.json"
FORMAT_VERSION = 1
ROUND = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # of the curve that is kept
_IDENTITY = ("*.safetensors", "config.json", "tokenizer.json", "tokenizer.model")
_SAMPLES, _SAMPLE = 1024, 4096  # pieces of a file that are read, and their bytes: every tensor of 0.1% of it is met


@dataclass(frozen=True, slots=True)
class Cases:
    """The answers of one file.

    Attributes:
        path: that `srp generate` wrote, or the data set's that an evaluation took the prompts from.
        unsafe: P(unsafe) of each.
        succeeds: whether its attack succeeds where nothing stops it.
    """

    path: Path
    unsafe: Sequence[float]
    succeeds: Sequence[bool]

    def describe(self) -> dict[str, Any]:
        content = checksum(self.path) if self.path.is_file() else {}  # none for a data set on the hub
        return {"file": self.path.name, **content, "cases": len(self.unsafe)}


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold measured on one model.

    Attributes:
        threshold: P(unsafe) at which an answer is stopped.
        stop_at: the verdicts that count as unsafe.
        model: the model's `model_fingerprint`.
        date: of the measurement, YYYY-MM-DD.
        max_false_stops: the share of benign cases that it may stop.
        benign: their file and number; `lowest` P(unsafe); its `percentile`, `low` and `high` (95%, null for unbounded).
        harmful: their file and number; None without any.
        curve: `threshold`, `attack_success` (null without harmful cases) and `false_stops` at round thresholds.
        at_chance: whether P(unsafe) does not tell harmful from benign cases; None if unknown.
        auc: how well it tells them apart, `value`, `low` and `high` (95%); None if unknown.
    """

    threshold: float
    stop_at: frozenset[Verdict]
    model: str
    date: str
    max_false_stops: float
    benign: dict[str, Any]
    harmful: dict[str, Any] | None
    curve: list[dict[str, Any]]
    at_chance: bool | None
    auc: dict[str, float] | None = None

    def write(self, folder: Path) -> Path:
        """Write `calibration.json` into `folder`; returns its path."""
        content = {name: getattr(self, name) for name in self.__slots__} | {"stop_at": sorted(self.stop_at)}
        write_json(folder / FILE, {"format_version": FORMAT_VERSION, **content})
        return folder / FILE

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """Raises InputError for a file that is damaged or of another version."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            version = found.pop("format_version")
            if version != FORMAT_VERSION:
                raise InputError(f"{path}: format_version {version!r}; this release reads {FORMAT_VERSION}")
            found["stop_at"] = frozenset(Verdict(name) for name in found["stop_at"])
            calibration = cls(**found)
            if not 0 < calibration.threshold <= 1 or not 0 <= calibration.benign["lowest"] <= 1:
                raise ValueError("a probability is not between 0 and 1")
            return calibration
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not a calibration ({error}); run `srp threshold` again") from None


def find_calibration(folder: str) -> Calibration | None:
    """The calibration of a model folder, or of a name on the hub; None where there is none.

    Raises:
        InputError: when it cannot be read.
        UsageError: when it was measured on another model.
    """
    path = find_in_model(folder, FILE)
    if path is None:
        return None
    found = Calibration.read(path)
    if found.model != model_fingerprint(path.parent):
        raise UsageError(
            f"{path} was measured on another model: the weights, config.json or tokenizer here differ. Run `srp "
            "threshold --model` on answers of this one, or remove the file"
        )
    return found


def model_fingerprint(folder: Path) -> str:
    """Of weights (pieces all over each file), configuration and tokenizer.

    A change of a single tensor, as by pruning or by removing a direction, leaves beginning and end as they were."""
    files = sorted(path for pattern in _IDENTITY for path in folder.glob(pattern))
    return digest({path.name: _spread_fingerprint(path) for path in files})


def _spread_fingerprint(path: Path) -> str:
    size = path.stat().st_size
    content = xxhash.xxh3_128()
    with path.open("rb") as file:
        for i in range(_SAMPLES):
            file.seek(i * max(0, size - _SAMPLE) // (_SAMPLES - 1))
            content.update(file.read(_SAMPLE))
    return f"{size}-{content.hexdigest()}"


def calibrate(
    folder: Path | None, benign: Cases, harmful: Cases | None, stop_at: Collection[Verdict], max_false_stops: float
) -> Calibration | None:
    """The calibration of the model in `folder`, if there is one; None when every threshold stops too much.

    Raises:
        UsageError: when there are no cases, or a value is not a probability.
    """
    succeeds = harmful.succeeds if harmful else None
    # Without harmful cases, an attack that nothing recognizes stands in for them: only false stops are read then.
    curve = threshold_curve(harmful.unsafe if harmful else [0.0], benign.unsafe, succeeds)
    best = recommend(curve, max_false_stops)
    threshold = best.setting if harmful and best else percentile_setting(benign.unsafe, max_false_stops)
    if best is None or threshold is None:
        return None
    found = quantile(benign.unsafe, 1 - max_false_stops) if max_false_stops else None
    ends = {"percentile": found.value, "low": _finite(found.low), "high": _finite(found.high)} if found else {}
    points = [(at, at_threshold(curve, at)) for at in ROUND]
    return Calibration(
        threshold,
        frozenset(stop_at),
        model_fingerprint(folder) if folder else "",
        date.today().isoformat(),
        max_false_stops,
        {**benign.describe(), "lowest": min(benign.unsafe), **ends},
        harmful.describe() if harmful else None,
        [
            {"threshold": at, "attack_success": p.attack_success if harmful else None, "false_stops": p.false_stops}
            for at, p in points
        ],
        is_at_chance(harmful.unsafe, benign.unsafe) if harmful else None,
        dict(zip(("value", "low", "high"), auc(harmful.unsafe, benign.unsafe), strict=True)) if harmful else None,
    )


def is_at_chance(harmful: Sequence[float], benign: Sequence[float]) -> bool:
    """Whether P(unsafe) is no higher for harmful than for benign cases, by Mann and Whitney's test at 2.5%."""
    n, m = len(harmful), len(benign)
    return auc(harmful, benign)[0] < 0.5 + Z95 * sqrt((n + m + 1) / (12 * n * m))


def false_stops(benign: Sequence[float], threshold: float) -> tuple[float, float, float]:
    """The share of benign cases that a threshold stops, and its 95% interval."""
    share = sum(p >= threshold for p in benign) / len(benign)
    return share, *wilson(share, len(benign))


def prompts_differ(stopped: int, count: int, max_false_stops: float) -> str:
    """A warning where benign prompts are stopped more often than a calibration allows, beyond chance; else "".

    The threshold holds for prompts like those it was measured on: of others it may stop any share."""
    if not count:
        return ""
    low, high = wilson(stopped / count, count)
    if low <= max_false_stops:
        return ""
    return (
        f"{stopped / count:.1%} of {count} benign prompts are stopped (95%: {low:.1%} to {high:.1%}), more than the "
        f"{max_false_stops:.4g} of {FILE}: they differ from those it was measured on; calibrate on prompts like these"
    )


def _finite(value: float) -> float | None:
    return value if abs(value) <= 1 else None
