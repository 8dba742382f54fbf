"""A `small` front as one file: its weights, and a card that says what it was trained on and how good it is.

The file is a safetensors file with one tensor, `weights` int8[2**bits], and one field of metadata, `srp_front`, a JSON
object:

    version     1
    features    the revision of the features' definition; another one makes other buckets
    bias, scale the probability of harm is sigmoid(bias + scale * sum / sqrt(count)), over a text's features
    card        what it was trained on, accuracy, recall at thresholds, calibration, speed
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.errors import InputError, OutputError
from megatron_srp.files import replacing

VERSION = 1
FEATURES = 1
_KEY = "srp_front"


@dataclass(frozen=True, slots=True)
class SmallFront:
    """A linear model over hashed words and characters.

    Attributes:
        weights: int8[2**bits].
        card: JSON values, for people.
        revision: short hash of all that its scores depend on.
    """

    weights: np.ndarray
    bias: float
    scale: float
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def revision(self) -> str:
        numbers = np.array([self.bias, self.scale], "<f8").tobytes()
        return hashlib.sha256(self.weights.tobytes() + numbers + bytes([FEATURES])).hexdigest()[:12]

    def probabilities(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """float32[N] probabilities of harm from int64[N] sums of weights and int64[N] numbers of features."""
        logits = self.bias + self.scale * sums / np.sqrt(np.maximum(counts, 1))
        return (1 / (1 + np.exp(-np.clip(logits, -60, 60)))).astype(np.float32)


def save_front(front: SmallFront, path: Path) -> None:
    """Write the file atomically; raises OutputError where it cannot be written."""
    from safetensors.numpy import save

    header = {
        "version": VERSION,
        "features": FEATURES,
        "bias": front.bias,
        "scale": front.scale,
        "card": front.card,
    }
    data = save({"weights": front.weights}, {_KEY: json.dumps(header)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            new.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; choose another --out") from None


def load_front(path: Path) -> SmallFront:
    """Raises InputError where the file is missing, damaged, or of another version."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            weights = file.get_tensor("weights")
        version = (header["version"], header["features"])
        front = SmallFront(weights, float(header["bias"]), float(header["scale"]), dict(header["card"]))
        if weights.dtype != np.int8 or weights.ndim != 1 or not 8 <= len(weights).bit_length() - 1 <= 24:
            raise ValueError(f"weights of {weights.dtype} with {weights.ndim} axes")
        if len(weights).bit_count() != 1:
            raise ValueError(f"{len(weights)} weights, which is no power of two")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a front, or damaged ({reason}); make one with `srp train-guard`") from None
    if version != (VERSION, FEATURES):
        raise InputError(
            f"{path}: a front of version {version[0]}, features {version[1]}; this release reads version {VERSION}, "
            f"features {FEATURES}: train it again with `srp train-guard`"
        )
    return front
