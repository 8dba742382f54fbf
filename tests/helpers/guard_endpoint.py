"""Prompts for the HTTP engine, and the answers of a server as vLLM gives them."""

import numpy as np

from megatron_srp.annotation.engines import Prompts
from megatron_srp.tokenization import TokenBatch
from tests.helpers.endpoint import Endpoint

SAFE, UNSAFE = 11, 12
KEY = "sk-very-secret-key"


def prompts(*rests: list[int]) -> Prompts:
    return Prompts(np.array([1, 2], np.int32), TokenBatch.from_lists([list(rest) for rest in rests]))


def score(prompt: list[int]) -> dict[str, float]:
    """The model: Unsafe where the prompt ends with 7."""
    worst = prompt[-1] == 7
    return {f"token_id:{SAFE}": -3.0 if worst else -0.1, f"token_id:{UNSAFE}": -0.2 if worst else -4.0}


def like_vllm(body: dict) -> dict:
    choices = [
        {
            "index": i,
            "text": "x",
            "token_ids": [*prompt[-2:], 99, 5],
            "logprobs": {"top_logprobs": [score(prompt)]},
        }
        for i, prompt in enumerate(body["prompt"])
    ]
    usage = {"prompt_tokens": sum(map(len, body["prompt"]))}
    return {"model": body["model"], "choices": choices[::-1], "usage": usage}


def vllm_endpoint() -> Endpoint:
    """A server of the model, for a `with` block."""
    return Endpoint(like_vllm, max_model_len=4096)
