"""The fronts that the section of cascades compares, each trained on the back's verdicts and scored out of fold."""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.fronts.embedders import StaticEmbedder
from megatron_srp.annotation.fronts.front_file import Front
from megatron_srp.annotation.fronts.logistic import fit_logistic
from megatron_srp.annotation.fronts.train_small import train_small
from megatron_srp.annotation.guards.embedding import EmbeddingGuard
from megatron_srp.annotation.guards.small import SmallGuard

FOLDS = 5
Fit = Callable[[np.ndarray, np.ndarray], SmallGuard]  # bool[N] rows to train on, and to calibrate on


def out_of_fold(fit: Fit, texts: pa.LargeStringArray, numbers: np.ndarray) -> np.ndarray:
    """float32[N] probabilities of harm: each by a front that saw neither the text nor its document.

    Args:
        numbers: uint64[N] of each text's document, which decide its fold.
    """
    folds, aside = numbers % FOLDS, numbers // FOLDS % 10 == 0
    harms = np.zeros(len(texts), np.float32)
    for fold in range(FOLDS):
        front = fit((folds != fold) & ~aside, (folds != fold) & aside)
        harms[folds == fold] = front.harm_probabilities_array(pick(texts, folds == fold))
    return harms


def pick(texts: pa.LargeStringArray, rows: np.ndarray) -> pa.LargeStringArray:
    return texts.take(pa.array(np.flatnonzero(rows)))


def fit_small(texts: pa.LargeStringArray, harmful: np.ndarray) -> Fit:
    """Hashed words and characters."""

    def fit(rows: np.ndarray, others: np.ndarray) -> SmallGuard:
        return SmallGuard(train_small(pick(texts, rows), harmful[rows], (pick(texts, others), harmful[others])))

    return fit


def fit_static(texts: pa.LargeStringArray, harmful: np.ndarray, encoder: Path) -> Fit | None:
    """A linear head on the mean of the encoder's word vectors; None where model2vec is not installed."""
    if find_spec("model2vec") is None:
        return None
    embedder = _word_vectors(encoder)
    vectors = embedder.embed(texts.to_pylist())

    def fit(rows: np.ndarray, others: np.ndarray) -> SmallGuard:
        known = rows | others
        weights, bias = fit_logistic(vectors[known], harmful[known], ridge=0.1)
        described = {"kind": "static", "model": "", "revision": embedder.revision}
        return EmbeddingGuard(Front(weights.astype(np.float32), bias, 1.0, embedder=described), embedder)

    return fit


def _word_vectors(encoder: Path) -> StaticEmbedder:
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from transformers import AutoModel

    vectors = AutoModel.from_pretrained(str(encoder)).get_input_embeddings().weight.detach().numpy()
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with tempfile.TemporaryDirectory() as folder:
        StaticModel(vectors, tokenizer).save_pretrained(folder)
        return StaticEmbedder(folder)
