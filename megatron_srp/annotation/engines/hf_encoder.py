"""Encoders of transformers: vectors of texts, or the logits of a classification head, on a GPU or on CPU.

Texts are sorted by length and padded within a batch, so that little is computed for nothing.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_srp.annotation.engines.hf_loading import check_tokens, choose_device, choose_dtype, weights_revision
from megatron_srp.errors import UsageError
from megatron_srp.remote.hub_models import check_model_name

_GPU_BATCH_TOKENS, _CPU_BATCH_TOKENS = 65_536, 4_096


class TextEncoder:
    """An encoder, with its classification head or without.

    Args:
        model: folder or hub name. tokenizer: the same of another tokenizer.
        head: load `AutoModelForSequenceClassification`; else `AutoModel`.
        device, dtype: as of the hf engine.
        batch_tokens: maximum tokens of a batch, padding included.
        max_length: longer texts are cut to this many tokens; by default the model's context length.

    Attributes:
        labels: of the head, by index.
    """

    def __init__(
        self,
        model: str | Path,
        tokenizer: str | Path | None = None,
        head: bool = False,
        device: str | None = None,
        dtype: str = "float32",
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> None:
        check_tokens(batch_tokens=batch_tokens, max_length=max_length)
        self.device = choose_device(device)
        self._model = _load(str(model), head, choose_dtype(dtype)).to(self.device).eval()
        self._tokenizer = _load_tokenizer(str(tokenizer or model))
        config = self._model.config
        self.labels = [config.id2label[i] for i in range(config.num_labels)] if head else []
        context = getattr(config, "max_position_embeddings", 512)
        self.max_length = min(max_length or context, context, self._tokenizer.model_max_length)
        on_gpu = self.device.type == "cuda"
        self.batch_tokens = batch_tokens or (_GPU_BATCH_TOKENS if on_gpu else _CPU_BATCH_TOKENS)
        self.revision = weights_revision(model)
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N, D]: the mean of each text's last hidden states, of length 1."""

        def mean(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            states = self._model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None].float()
            return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1), dim=1)

        return self._run(texts, mean)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N, L] of the classification head's L labels."""
        return self._run(texts, lambda inputs: self._model(**inputs).logits.float())

    def close(self) -> None:
        del self._model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, texts: Sequence[str], compute: Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> np.ndarray:
        if not texts:
            return np.empty((0, 0), np.float32)
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self.max_length)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        order, at, found = np.argsort(-lengths, kind="stable"), 0, []
        with self._lock, torch.inference_mode():
            while at < len(order):
                rows = order[at : at + max(self.batch_tokens // max(int(lengths[order[at]]), 1), 1)]
                padded = self._tokenizer.pad({k: [v[r] for r in rows] for k, v in encoded.items()}, return_tensors="pt")
                found.append(compute({name: value.to(self.device) for name, value in padded.items()}).cpu().numpy())
                at += len(rows)
        out = np.concatenate(found)
        out[order] = out.copy()
        return out


def _load(model: str, head: bool, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    check_model_name("encoder", model)
    disable_progress_bar()
    kind = AutoModelForSequenceClassification if head else AutoModel
    try:
        return kind.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"encoder {model}: cannot be loaded ({reason}); pass a folder or a name on the hub") from None


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    check_model_name("tokenizer", name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # raised by many libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"tokenizer {name}: cannot be loaded ({reason}); pass a folder or a hub name") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
