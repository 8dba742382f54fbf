"""How many answers are generated at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_srp.generation.engines.request import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """What runs at a time.

    Attributes:
        answers: maximum number of answers.
        tokens: maximum tokens of all their prompts and answers together, which the cache has to hold. A request
            that alone needs more runs alone.
    """

    answers: int = 16
    tokens: int = 32_768

    def admits(self, running: Sequence["Request"], request: "Request") -> bool:
        """Whether another request may run next to those."""
        if not running:
            return True
        used = sum(one.most_tokens for one in running)
        return len(running) < self.answers and used + request.most_tokens <= self.tokens
