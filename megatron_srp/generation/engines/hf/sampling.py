"""The next token of each text: the most likely, or drawn."""

from collections.abc import Sequence
from functools import partial

import torch

from megatron_srp.generation.engines.request import Answer, Sampling

__all__ = ["Sampler", "Sampling", "next_tokens"]


_COLDEST = 1e-30  # a smaller value may be 0 in float32


class Sampler:
    """Draws one text's tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed % 2**63)

    def next(self, likeliest: int, logits: torch.Tensor) -> int:
        """The most likely token, or at a temperature above zero a drawn one; logits are float32[V]."""
        return self.draw(logits) if self._sampling.temperature else likeliest

    def draw(self, logits: torch.Tensor) -> int:
        """A token, from float32[V] logits, at a temperature above zero."""
        # Relative to the maximum, which stays zero: divided by a tiny temperature it would become infinite.
        relative = logits.cpu() - logits.max().cpu()
        probabilities, ids = (relative / max(self._sampling.temperature, _COLDEST)).softmax(-1).sort(descending=True)
        outside = probabilities.cumsum(0) - probabilities >= self._sampling.top_p
        outside[0] = False  # the most likely is always kept, even if top-p is zero in float32
        drawn = torch.multinomial(probabilities.masked_fill(outside, 0.0), 1, generator=self._generator)
        return int(ids[drawn])


def next_tokens(answers: Sequence[Answer], samplers: Sequence[Sampler], logits: torch.Tensor) -> list[int]:
    """A token for each row of float32[N, V]; an answer whose row has none fails, and the others continue.

    The most likely tokens of all rows are fetched from the GPU at once."""
    likeliest = logits.argmax(-1).tolist()
    tokens = []
    for answer, sampler, token, row in zip(answers, samplers, likeliest, logits, strict=True):
        try:
            tokens.append(answer.next_token(token, partial(sampler.next, token, row)))
        except Exception as error:  # logits that are NaN, say: those of the others are fine
            answer.fail(error)
            tokens.append(token)
    return tokens
