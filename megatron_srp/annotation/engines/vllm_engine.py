"""vLLM in this process: prompts of token ids in large batches, with the common prefix in its cache.

Tested on vLLM 0.32. One pass asks for a single token
and for the log-probabilities of the verdicts, whether they are among the likeliest or not.
"""

import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from megatron_srp.annotation.engines import Engine, Prompts
from megatron_srp.errors import GuardError


class VLLMEngine(Engine):
    """A model on this machine's GPUs.

    Args:
        model: folder or hub name of the weights.
        batch_tokens: maximum tokens per scheduler step; longer prompts are prefilled in chunks.
        max_num_seqs: maximum prompts per step.
        max_length: maximum tokens in a prompt and its answer; by default the model's context length.
        dtype: of the weights.
        tensor_parallel: GPUs that share one copy of the model.
        gpu_memory: fraction of a GPU's memory to use.

    Raises:
        GuardError: when vLLM cannot load the model.
    """

    requires: ClassVar[tuple[str, ...]] = ("vllm",)

    def __init__(
        self,
        model: str,
        batch_tokens: int = 32_768,
        max_num_seqs: int = 1024,
        max_length: int | None = None,
        dtype: str = "bfloat16",
        tensor_parallel: int = 1,
        gpu_memory: float = 0.9,
    ) -> None:
        from vllm import LLM

        try:
            self._llm = LLM(
                model=model,
                skip_tokenizer_init=True,  # ids go in, ids come out
                tensor_parallel_size=tensor_parallel,
                dtype=dtype,
                seed=0,
                gpu_memory_utilization=gpu_memory,
                enable_prefix_caching=True,
                enable_chunked_prefill=True,
                max_num_batched_tokens=batch_tokens,
                max_num_seqs=max_num_seqs,
                max_model_len=max_length,
                logprobs_mode="raw_logprobs",  # over the whole vocabulary, not the allowed tokens
            )
        except Exception as error:  # raised by many libraries
            reason = " ".join(str(error).split())[:200]
            raise GuardError(
                f"--guard-engine vllm: {model} cannot be loaded ({type(error).__name__}: {reason})"
            ) from error
        self.max_length = int(self._llm.model_config.max_model_len)
        self._lock = threading.Lock()  # LLM.generate is for one caller at a time

    def next_token_logprobs(self, prompts: Prompts, candidates: Sequence[int]) -> np.ndarray:
        ids = [int(i) for i in candidates]
        outputs = self._run(prompts, max_tokens=1, allowed_token_ids=ids, logprob_token_ids=ids)
        rows = [[output.logprobs[0][i].logprob for i in ids] for output in outputs]
        return np.array(rows, np.float32).reshape(len(prompts), len(ids))

    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: Sequence[int]) -> list[np.ndarray]:
        stops = {int(i) for i in stop_ids}
        outputs = self._run(prompts, max_tokens=max_new_tokens, stop_token_ids=sorted(stops))
        written = [list(output.token_ids) for output in outputs]
        ends = [next((k for k, i in enumerate(ids) if i in stops), len(ids)) for ids in written]
        return [np.array(ids[:end], np.int32) for ids, end in zip(written, ends, strict=True)]

    def _run(self, prompts: Prompts, **settings: Any) -> list[Any]:
        """The completion of each prompt, in order."""
        if not len(prompts):
            return []
        from vllm import SamplingParams, TokensPrompt

        params = SamplingParams(temperature=0.0, detokenize=False, **settings)
        inputs = [TokensPrompt(prompt_token_ids=prompt.tolist()) for prompt in prompts]
        with self._lock:
            results = self._llm.generate(inputs, params, use_tqdm=False)
        return [result.outputs[0] for result in results]
