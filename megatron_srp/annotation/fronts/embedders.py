"""What turns texts into vectors for a front: an encoder of transformers, or static embeddings (model2vec)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from megatron_srp.errors import UsageError, did_you_mean

KINDS = ("encoder", "static")


class Embedder(Protocol):
    """Vectors float32[N, D] of texts, of length 1."""

    revision: str

    def embed(self, texts: Sequence[str]) -> np.ndarray: ...

    def close(self) -> None: ...


class StaticEmbedder:
    """The mean of a text's word vectors: https://github.com/MinishLab/model2vec."""

    def __init__(self, model: str) -> None:
        from model2vec import StaticModel

        try:
            self._model: Any = StaticModel.from_pretrained(model)
        except Exception as error:  # raised by many libraries
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"static embeddings {model}: cannot be loaded ({reason}); pass a folder or a name"
            ) from None
        self.revision = hashlib.sha256(np.ascontiguousarray(self._model.embedding).tobytes()).hexdigest()[:12]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.asarray(self._model.encode(list(texts)), np.float32).reshape(len(texts), -1)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def close(self) -> None:
        del self._model


def load_embedder(kind: str, model: str | Path, **options: Any) -> Embedder:
    """Raises UsageError where there is no such kind, or the model cannot be loaded."""
    if kind == "static":
        return StaticEmbedder(str(model))
    if kind == "encoder":
        from megatron_srp.annotation.engines.hf_encoder import TextEncoder

        return TextEncoder(model, **options)
    raise UsageError(f"front of kind {kind!r}; {did_you_mean(kind, list(KINDS))}")
