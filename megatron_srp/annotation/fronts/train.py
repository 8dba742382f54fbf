"""From a store's verdicts to a front with its card."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from megatron_srp.annotation.fronts.card import CAUTION, measure
from megatron_srp.annotation.fronts.embedders import Embedder
from megatron_srp.annotation.fronts.examples import Examples, read_examples
from megatron_srp.annotation.fronts.front_file import Front
from megatron_srp.annotation.fronts.logistic import fit_logistic, fit_sigmoid
from megatron_srp.annotation.fronts.train_small import SmallSettings, train_small
from megatron_srp.annotation.guards.embedding import EmbeddingGuard
from megatron_srp.annotation.guards.small import SmallGuard
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.remote.remote_file import InputFile


def train_front(
    store: AnnotationStore,
    files: Sequence[InputFile],
    key: str,
    of: str,
    most: int,
    seed: int = 0,
    embedder: tuple[Embedder, dict[str, str]] | None = None,
) -> Front:
    """A front, trained on the store's verdicts on the files.

    Args:
        of, most: as of `read_examples`.
        embedder: what makes vectors, and its description in the file; without it, the front is `small`.
    """
    examples = read_examples(store, files, key, of, most)
    source = {"guard": store.settings, "harmful": of, "files": [file.name for file in files]}
    if embedder is None:
        return train_on(examples, source, SmallSettings(seed=seed))
    return train_head(examples, source, *embedder)


def train_on(examples: Examples, source: dict[str, Any], settings: SmallSettings | None = None) -> Front:
    """A `small` front with its card; `source` describes the examples."""
    front = train_small(*examples.part(0), examples.part(1), settings)
    return _with_card(front, SmallGuard(front), "small", examples, source)


def train_head(examples: Examples, source: dict[str, Any], embedder: Embedder, described: dict[str, str]) -> Front:
    """A linear head on the embedder's vectors, with its card."""
    (texts, harmful), (others, also) = examples.part(0), examples.part(1)
    weights, _ = fit_logistic(embedder.embed(texts.to_pylist()), harmful)
    weights = weights.astype(np.float32)
    bias, scale = fit_sigmoid(embedder.embed(others.to_pylist()) @ weights, also)
    front = Front(weights, bias, scale, embedder={**described, "revision": embedder.revision})
    return _with_card(front, EmbeddingGuard(front, embedder), described["kind"], examples, source)


def _with_card(front: Front, guard: SmallGuard, kind: str, examples: Examples, source: dict[str, Any]) -> Front:
    trained = examples.parts != 2
    counts = {"segments": int(trained.sum()), "harmful": int(examples.harmful[trained].sum())}
    held_out = measure(guard.harm_probabilities_array, examples)
    card = {"kind": kind, "caution": CAUTION, "trained_on": {**source, **counts}, "held_out": held_out}
    return replace(front, card=card)
