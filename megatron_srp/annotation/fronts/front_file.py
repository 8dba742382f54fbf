"""A front as one file: its weights, and a card that says what it was trained on and how good it is.

The file is a safetensors file with one tensor, `weights`, and one field of metadata, `srp_front`, a JSON object:

    version     1
    features    the revision of the features' definition; another one makes other buckets
    bias, scale the probability of harm is sigmoid(bias + scale * score). Of a `small` front, weights are int8[2**bits]
                and the score is sum / sqrt(count) over a text's features; of another kind, weights are float32[D] and
                the score is their product with the text's vector
    embedder    of another kind: what makes the vectors, {kind: encoder or static, model, revision}; else null
    threshold   the guard calls a text Unsafe from this probability on; a cascade has its own
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
class Front:
    """A linear model over hashed words and characters, or over vectors of texts.

    Attributes:
        weights: int8[2**bits] of hashed features, float32[D] of vectors.
        embedder: what makes the vectors; None for hashed features.
        card: JSON values, for people.
        revision: short hash of all that its scores depend on.
    """

    weights: np.ndarray
    bias: float
    scale: float
    card: dict[str, Any] = field(default_factory=dict)
    threshold: float = 0.5
    embedder: dict[str, str] | None = None

    @property
    def revision(self) -> str:
        numbers = np.array([self.bias, self.scale], "<f8").tobytes()
        made_by = self.embedder["revision"].encode() if self.embedder else bytes([FEATURES])
        return hashlib.sha256(self.weights.tobytes() + numbers + made_by).hexdigest()[:12]

    def probabilities(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """float32[N] probabilities of harm from int64[N] sums of weights and int64[N] numbers of features."""
        return self.at_scores(sums / np.sqrt(np.maximum(counts, 1)))

    def at_scores(self, scores: np.ndarray) -> np.ndarray:
        """float32[N] probabilities of harm from float[N] scores."""
        logits = self.bias + self.scale * scores
        return (1 / (1 + np.exp(-np.clip(logits, -60, 60)))).astype(np.float32)


def save_front(front: Front, path: Path) -> None:
    """Write the file atomically; raises OutputError where it cannot be written."""
    from safetensors.numpy import save

    header = {
        "version": VERSION,
        "features": FEATURES,
        "bias": front.bias,
        "scale": front.scale,
        "threshold": front.threshold,
        "embedder": front.embedder,
        "card": front.card,
    }
    data = save({"weights": front.weights}, {_KEY: json.dumps(header)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            new.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; choose another --out") from None


def load_front(path: Path) -> Front:
    """Raises InputError where the file is missing, damaged, or of another version."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            weights = file.get_tensor("weights")
        version = (header["version"], header["features"])
        bias, scale, threshold = (float(header[name]) for name in ("bias", "scale", "threshold"))
        front = Front(weights, bias, scale, dict(header["card"]), threshold, header["embedder"])
        _check_weights(front)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a front, or damaged ({reason}); make one with `srp train-guard`") from None
    if version != (VERSION, FEATURES):
        raise InputError(
            f"{path}: a front of version {version[0]}, features {version[1]}; this release reads version {VERSION}, "
            f"features {FEATURES}: train it again with `srp train-guard`"
        )
    return front


def _check_weights(front: Front) -> None:
    weights = front.weights
    if front.embedder is not None:
        fine = weights.dtype == np.float32 and weights.ndim == 1 and {"kind", "model", "revision"} <= {*front.embedder}
    else:
        fine = weights.dtype == np.int8 and weights.ndim == 1 and len(weights) in [1 << bits for bits in range(8, 25)]
    if not fine:
        raise ValueError(f"weights {weights.dtype}{list(weights.shape)} do not fit its kind")
