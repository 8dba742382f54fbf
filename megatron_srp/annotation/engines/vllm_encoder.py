"""Classifiers in vLLM, by its pooling runner: the logits of a classification head, and no vocabulary's.

Tested on vLLM 0.32.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_srp.annotation.engines.hf_loading import check_tokens, weights_revision
from megatron_srp.errors import GuardError


class VLLMEncoder:
    """A model with a classification head, on this machine's GPUs.

    Args:
        model: folder or hub name. tokenizer: the same of another tokenizer.
        dtype: of the weights.
        max_num_seqs: maximum texts per step.
        max_length: longer texts are cut to this many tokens; by default the model's context length.
        gpu_memory: fraction of a GPU's memory to use.

    Attributes:
        labels: of the head, by index.

    Raises:
        GuardError: when vLLM cannot load the model.
    """

    def __init__(
        self,
        model: str,
        tokenizer: str | None = None,
        dtype: str = "auto",
        max_num_seqs: int = 1024,
        max_length: int | None = None,
        gpu_memory: float = 0.9,
    ) -> None:
        from transformers import AutoTokenizer
        from vllm import LLM

        check_tokens(max_length=max_length)
        try:
            self._llm = LLM(
                model=str(model),
                runner="pooling",
                convert="classify",
                skip_tokenizer_init=True,  # ids go in
                dtype=dtype,
                seed=0,
                max_num_seqs=max_num_seqs,
                max_model_len=max_length,
                gpu_memory_utilization=gpu_memory,
            )
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(tokenizer or model))
        except Exception as error:  # raised by many libraries
            reason = " ".join(str(error).split())[:200]
            raise GuardError(f"classifier {model}: vLLM cannot load it ({type(error).__name__}: {reason})") from error
        config = self._llm.model_config.hf_config
        self.labels = [config.id2label[i] for i in range(len(config.id2label))]
        self.max_length = int(self._llm.model_config.max_model_len)
        self.revision = weights_revision(model)
        self._lock = threading.Lock()  # an LLM is for one caller at a time

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N, L] of the classification head's L labels."""
        from vllm import PoolingParams, TokensPrompt

        if not texts:
            return np.empty((0, len(self.labels)), np.float32)
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in encoded]
        with self._lock:
            found = self._llm.classify(prompts, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
        return np.array([one.outputs.probs for one in found], np.float32)

    def close(self) -> None:
        del self._llm
