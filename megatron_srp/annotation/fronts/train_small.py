"""Training of the `small` front: logistic regression over hashed features.

Stochastic gradients with AdaGrad's step sizes (Duchi, Hazan and Singer 2011), which suit features of very different
frequency; the mean of the weights over the last half (Polyak and Juditsky 1992); then eight bits a weight.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.fronts.features import batch_features, score_batch
from megatron_srp.annotation.fronts.front_file import Front
from megatron_srp.annotation.fronts.logistic import fit_sigmoid
from megatron_srp.corpus.batch import TextBatch

BITS = 18  # 256 KiB of weights, which a core's cache holds
_LARGEST = 127


@dataclass(frozen=True, slots=True)
class SmallSettings:
    """How a `small` front is trained: passes over the data, texts per step, step size, and the weights' decay."""

    epochs: int = 8
    batch: int = 256
    rate: float = 0.3
    decay: float = 1e-6
    bits: int = BITS
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Features:
    """Of N texts: uint32[F] `buckets`, int64[N+1] `offsets`; a feature's value is 1 / sqrt(features of its text)."""

    buckets: np.ndarray
    offsets: np.ndarray

    def rows(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Buckets of the texts int64[K] `chosen`, and for each the position of its text among them."""
        sizes = np.diff(self.offsets)[chosen]
        owners = np.repeat(np.arange(len(chosen)), sizes)
        starts = np.repeat(self.offsets[chosen] - (np.cumsum(sizes) - sizes), sizes)
        return self.buckets[starts + np.arange(len(owners))], owners


def train_small(
    texts: pa.LargeStringArray,
    harmful: np.ndarray,
    others: tuple[pa.LargeStringArray, np.ndarray],
    settings: SmallSettings | None = None,
) -> Front:
    """A front without a card.

    Args:
        texts, harmful: N texts and bool[N].
        others: the same of other documents, for the two numbers that turn a score into a probability.
    """
    settings = settings or SmallSettings()
    features = _Features(*batch_features(TextBatch.from_arrow(texts), settings.bits))
    weights = _fit(features, harmful, settings)
    step = np.abs(weights).max() / _LARGEST or 1.0
    quantised = np.rint(weights / step).astype(np.int8)
    sums, counts = score_batch(TextBatch.from_arrow(others[0]), quantised)
    bias, scale = fit_sigmoid(step * sums / np.sqrt(np.maximum(counts, 1)), others[1])
    return Front(quantised, bias, scale * step)


def _fit(features: _Features, harmful: np.ndarray, settings: SmallSettings) -> np.ndarray:
    """float64[2**bits] weights."""
    size = 1 << settings.bits
    weights, squares, mean, means = np.zeros(size), np.full(size, 1e-8), np.zeros(size), 0
    bias, bias_squares = 0.0, 1e-8
    scales = 1 / np.sqrt(np.maximum(np.diff(features.offsets), 1))
    for epoch, chosen in _batches(len(harmful), settings):
        buckets, owners = features.rows(chosen)
        scores = bias + scales[chosen] * np.bincount(owners, weights[buckets], len(chosen))
        errors = (1 / (1 + np.exp(-np.clip(scores, -60, 60))) - harmful[chosen]) / len(chosen)
        gradient = np.bincount(buckets, (errors * scales[chosen])[owners], size) + settings.decay * weights
        squares += gradient**2
        weights -= settings.rate * gradient / np.sqrt(squares)
        bias_squares += errors.sum() ** 2
        bias -= settings.rate * errors.sum() / np.sqrt(bias_squares)
        if epoch >= settings.epochs / 2:
            means += 1
            mean += (weights - mean) / means
    return mean


def _batches(count: int, settings: SmallSettings) -> Iterator[tuple[int, np.ndarray]]:
    rng = np.random.default_rng(settings.seed)
    for epoch in range(settings.epochs):
        order = rng.permutation(count)
        for at in range(0, count, settings.batch):
            yield epoch, order[at : at + settings.batch]
