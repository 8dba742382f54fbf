"""Qwen3Guard-Stream's model: Qwen3, and small heads that judge every token of a user's or an assistant's turn.

For each of the two roles, a linear map to `guard_inner_size`, an RMS norm, and two linear heads: risk levels and
categories, whose names are in the model's config. Qwen3Guard Technical Report, arXiv:2510.14276; the names of weights
and fields are those of the checkpoints. One pass over a text gives the risk at each of its tokens, and needs neither a
vocabulary's logits nor an instruction around the text.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3Model, Qwen3PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from megatron_srp.annotation.engines import Prompts
from megatron_srp.annotation.engines.hf_loading import check_tokens, choose_device, choose_dtype, weights_revision
from megatron_srp.errors import UsageError

_GPU_BATCH_TOKENS, _CPU_BATCH_TOKENS = 65_536, 4_096
_FIELDS = ("guard_inner_size", "num_risk_level", "num_category", "num_query_risk_level", "num_query_category")
ROLES = {"user": "query_", "assistant": ""}  # the beginnings of the weights' names


class _Model(Qwen3PreTrainedModel):
    config_class = Qwen3Config
    base_model_prefix = "model"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = Qwen3Model(config)
        inner = config.guard_inner_size
        for role in ROLES.values():
            sizes = {"risk_level_head": f"num_{role}risk_level", "category_head": f"num_{role}category"}
            pre = torch.nn.Linear(config.hidden_size, inner, bias=False)
            setattr(self, f"{role}risk_level_category_pre", pre)
            setattr(self, f"{role}risk_level_category_layernorm", Qwen3RMSNorm(inner, config.rms_norm_eps))
            for name, size in sizes.items():
                setattr(self, f"{role}{name}", torch.nn.Linear(inner, getattr(config, size), bias=False))
        self.post_init()

    def risks(self, states: torch.Tensor, role: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities float32[T, R] of risk levels and float32[T, C] of categories, of `states` [T, D]."""
        parts = vars(self)["_modules"]
        inner = parts[f"{role}risk_level_category_layernorm"](parts[f"{role}risk_level_category_pre"](states))
        heads = (parts[f"{role}risk_level_head"](inner), parts[f"{role}category_head"](inner))
        return heads[0].float().softmax(-1), heads[1].float().softmax(-1)


class TokenHeads:
    """The model, loaded.

    Args:
        model: folder or hub name.
        device, dtype: as of the hf engine.
        batch_tokens: maximum tokens of a batch, padding included.
        max_length: maximum tokens of a prompt; by default the model's context length.

    Attributes:
        levels, categories: the names of each role's risk levels and categories, by index.

    Raises:
        UsageError: where it cannot be loaded, or has no such heads.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    def __init__(
        self,
        model: str | Path,
        device: str | None = None,
        dtype: str | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> None:
        check_tokens(batch_tokens=batch_tokens, max_length=max_length)
        self.device = choose_device(device)
        on_gpu = self.device.type == "cuda"
        config = _load_config(str(model))
        self._model = _load(str(model), config, choose_dtype(dtype or ("bfloat16" if on_gpu else "float32")))
        self._model.to(self.device).eval()
        self.levels = {"user": _names(config, "query_risk_level"), "assistant": _names(config, "response_risk_level")}
        self.categories = {"user": _names(config, "query_category"), "assistant": _names(config, "response_category")}
        context = config.max_position_embeddings
        self.max_length = min(max_length or context, context)
        self.batch_tokens = batch_tokens or (_GPU_BATCH_TOKENS if on_gpu else _CPU_BATCH_TOKENS)
        self.revision = weights_revision(model)
        self._lock = threading.Lock()

    def read(self, prompts: Prompts, role: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each prompt, float32[T, R] and float32[T, C]: what the role's heads say at the T tokens of its rest."""
        found: list[Any] = [None] * len(prompts)
        with self._lock, torch.inference_mode():
            for rows in _batches([len(prompt) for prompt in prompts], self.batch_tokens):
                states = self._states([prompts[row] for row in rows])
                for row, of in zip(rows, states, strict=True):
                    inside = of[len(prompts.prefix) : len(prompts[row])]
                    risks, categories = self._model.risks(inside, ROLES[role])
                    found[row] = risks.cpu().numpy(), categories.cpu().numpy()
        return found

    def close(self) -> None:
        del self._model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _states(self, prompts: Sequence[np.ndarray]) -> torch.Tensor:
        """The last hidden states [B, L, D] of prompts padded on the right, which a causal model does not see."""
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.from_numpy(prompt.astype(np.int64))
        states: torch.Tensor = self._model.model(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        return states


def _batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """All rows, longest first, in batches of at most `batch_tokens` with the padding."""
    order, batches = np.argsort(-np.array(lengths, np.int64), kind="stable").tolist(), []
    while order:
        count = max(batch_tokens // lengths[order[0]], 1)
        batches.append(order[:count])
        order = order[count:]
    return batches


def _load_config(model: str) -> Any:
    try:
        config = Qwen3Config.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UsageError(_cannot(model, str(error).splitlines()[0])) from None
    if missing := [name for name in _FIELDS if not hasattr(config, name)]:
        raise UsageError(_cannot(model, f"its config has no {', '.join(missing)}"))
    return config


def _load(model: str, config: Any, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        loaded, info = _Model.from_pretrained(model, config=config, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(_cannot(model, str(error).splitlines()[0])) from None
    if info["missing_keys"]:
        raise UsageError(_cannot(model, f"it has no weights {', '.join(sorted(info['missing_keys'])[:3])}"))
    return loaded


def _names(config: Any, what: str) -> list[str]:
    """The names of a head's outputs, in their order."""
    given = {int(number): str(name) for number, name in getattr(config, f"{what}_map", {}).items()}
    size = getattr(config, f"num_{what.removeprefix('response_')}")
    if sorted(given) != list(range(size)):
        raise UsageError(f"model {config.name_or_path}: {what}_map of its config does not name the {size} outputs")
    return [given[i] for i in range(size)]


def _cannot(model: str, reason: str) -> str:
    return f"model {model}: cannot be loaded as Qwen3Guard-Stream ({reason}); pass a folder or a name on the hub"
