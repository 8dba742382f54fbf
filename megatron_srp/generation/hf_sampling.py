"""The next token of each text: the likeliest, or drawn."""

from dataclasses import dataclass

import torch

from megatron_srp.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 for the likeliest token.
        top_p: draw among the likeliest tokens that have this probability together.
        seed: of the draws; each text has its own, so that it does not depend on its neighbours.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise UsageError(f"--temperature {self.temperature}: give 0 (the likeliest token) or a number above it")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p}: give a probability above 0, at most 1")


class Sampler:
    """Draws one text's tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed % 2**63)

    def __call__(self, logits: torch.Tensor) -> int:
        """A token, from float32[V] logits."""
        if not self._sampling.temperature:
            return int(logits.argmax())
        probabilities, ids = (logits.cpu() / self._sampling.temperature).softmax(-1).sort(descending=True)
        outside = probabilities.cumsum(0) - probabilities >= self._sampling.top_p
        drawn = torch.multinomial(probabilities.masked_fill(outside, 0.0), 1, generator=self._generator)
        return int(ids[drawn])
