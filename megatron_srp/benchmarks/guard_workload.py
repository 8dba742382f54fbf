"""What the benchmark of guard engines runs: segments of random ids, and a random model of Qwen3-0.6B's shape."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_srp.annotation.engines import Prompts
from megatron_srp.tokenization.base import TokenBatch

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_SIZE = 1024, 3072, 16, 8, 128
TOKENS_PER_WORD = 1.3  # English prose in a vocabulary of 150,000
VOCABULARY = 151_936
# Words in a segment as a share of the maximum, in deciles, as measured on English prose cut at 100 words.
DECILES = (0.01, 0.6, 0.73, 0.8, 0.85, 0.89, 0.92, 0.94, 0.96, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is judged: `segments` of at most `interval` words, in a template of `prefix` tokens before the text
    and `suffix` after it; `unsafe` percent of them get `category_tokens` tokens written.
    `mix`: "natural" lengths as in prose, or "fixed", all of maximum length."""

    segments: int = 8_192
    interval: int = 100
    prefix: int = 201
    suffix: int = 98
    mix: str = "natural"
    unsafe: float = 2.0
    category_tokens: int = 8
    seed: int = 0

    def prompts(self) -> tuple[Prompts, int]:
        """Random prompts, and how many content tokens are in them."""
        rng = np.random.default_rng(self.seed)
        most = self.interval * TOKENS_PER_WORD
        shares = np.interp(rng.random(self.segments), np.linspace(0, 1, len(DECILES)), DECILES)
        shares = shares if self.mix == "natural" else np.ones(self.segments)
        lengths = np.maximum(np.round(shares * most), 1).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths + self.suffix)])
        rests = TokenBatch(rng.integers(0, VOCABULARY, offsets[-1], np.int32), offsets)
        return Prompts(rng.integers(0, VOCABULARY, self.prefix, np.int32), rests), int(lengths.sum())

    def flops(self, layers: int, whole_template: bool) -> float:
        """Of the model's multiplications for all verdicts; `whole_template`: with the prefix recomputed
        for each segment, instead of once."""
        own = self.prompts()[1] / self.segments + self.suffix  # average tokens of a segment
        keys = self.prefix + own / 2
        if whole_template:
            own, keys = own + self.prefix, (own + self.prefix) / 2
        attention = 4 * HEADS * HEAD_SIZE * layers * own * keys
        head = 2 * HIDDEN * VOCABULARY
        return self.segments * (2 * layer_parameters(layers) * own + attention + head)


def layer_parameters(layers: int) -> int:
    """Weights of the matrices in the layers, embeddings not counted."""
    attention = HIDDEN * HEAD_SIZE * (HEADS + 2 * KV_HEADS) + HEADS * HEAD_SIZE * HIDDEN
    return layers * (attention + 3 * HIDDEN * FFN)


def random_model(layers: int, device: str, dtype: str) -> Any:
    """A Qwen3 of the 0.6B shape with that many layers and random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_SIZE,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def matmul_tflops(device: str, dtype: str) -> float:
    """TFLOP/s of a large square matrix product there, the best of a few."""
    import torch

    n = 1_024 if device == "cpu" else 8_192
    a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, dtype)) for _ in range(2))

    def seconds(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / times

    seconds(3)
    return 2 * n**3 / min(seconds(10) for _ in range(5)) / 1e12
