"""A front over vectors of texts as a guard: a linear head on an encoder, or on static embeddings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_srp.annotation.base import GuardOptions, StringArray
from megatron_srp.annotation.fronts.embedders import Embedder, load_embedder
from megatron_srp.annotation.fronts.front_file import Front
from megatron_srp.annotation.guards.small import SmallGuard
from megatron_srp.errors import UsageError


class EmbeddingGuard(SmallGuard):
    """Calls a text Unsafe from a probability of harm on, without categories."""

    def __init__(
        self, front: Front, embedder: Embedder, name: str = "embedding", threshold: float | None = None
    ) -> None:
        super().__init__(front, name, threshold)
        self.embedder = embedder

    def close(self) -> None:
        self.embedder.close()

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.empty(0, np.float32)
        return self.front.at_scores(self.embedder.embed(texts) @ self.front.weights)

    def harm_probabilities_array(self, texts: StringArray) -> np.ndarray:
        return self.harm_probabilities(texts.to_pylist())


def load_embedding_guard(path: Path, front: Front, options: GuardOptions) -> EmbeddingGuard:
    """The guard of a front's file; raises UsageError where its embedder is another one than it was trained with."""
    assert front.embedder is not None
    model = options.model or front.embedder["model"]
    embedder = load_embedder(front.embedder["kind"], model, **options.engine_options)
    if embedder.revision != front.embedder["revision"]:
        embedder.close()
        raise UsageError(
            f"--guard front:{path} was trained on other vectors than those of {model}; pass --guard-model with the "
            f"{front.embedder['kind']} it was trained on, {front.embedder['model']}, or train it again"
        )
    return EmbeddingGuard(front, embedder, path.name.removesuffix(path.suffix), options.threshold)
