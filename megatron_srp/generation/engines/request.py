"""What an engine is asked, how its tokens are chosen, and an answer on its way. No torch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.policy import ForcedReflection, GuardPolicy
from megatron_srp.generation.guard.reflection_guard import ReflectionGuard
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.schema import Verdict

PATIENCE = 64  # tokens; text that always looks like a reflection's beginning cannot put a forced one off for good


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


@dataclass(frozen=True, slots=True)
class Options:
    """How one answer is made.

    Attributes:
        escape: whether what looks like a reflection or a special token in the user's text is made harmless.
            Only an evaluation of bare models leaves it as it is.
    """

    policy: GuardPolicy
    sampling: Sampling
    max_new_tokens: int = 256
    escape: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to generate.

    Attributes:
        prompt: token ids, at least one.
        prefill: ids that the answer begins with; the guard does not see them.
    """

    prompt: Sequence[int]
    prefill: Sequence[int] = ()
    policy: GuardPolicy = field(default_factory=GuardPolicy)
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 256


class Answer:
    """One answer on its way through an engine: its guard, and when a forced reflection is due.

    Args:
        on_text: called with text to show, as soon as it may be shown.

    Attributes:
        begun: `time.monotonic()` of its beginning.
        since: tokens that no reflection has judged.
        script: tokens that come next, since a verdict has been decided on.
    """

    def __init__(self, request: Request, vocabulary: GuardVocabulary, on_text: Callable[[str], None]) -> None:
        self.request, self.guard = request, ReflectionGuard(vocabulary, request.policy)
        self._on_text = on_text
        self.begun = time.monotonic()
        self.since = len(request.prefill)
        self._reflections = 0
        self.script: list[int] = []

    @property
    def ended(self) -> bool:
        return self.guard.stop_reason is not None

    @property
    def room(self) -> int:
        """How many tokens it may still get."""
        return self.request.max_new_tokens - self.guard.num_tokens

    def push(self, token: int) -> None:
        """Take the next token. A reflection that the model writes counts as one."""
        self._show(self.guard.push(token))
        self.since += 1
        if self.guard.num_reflections > self._reflections:
            self.since, self._reflections = 0, self.guard.num_reflections

    def decide(self, paths: Sequence[Sequence[int]], *probabilities: float) -> None:
        """Decide on the verdict that follows an opening, from the probabilities of the three.

        Args:
            paths: for each verdict, in the order of `Verdict`, the tokens that write it.
        """
        found = ForcedReflection(self.guard.num_tokens, *probabilities).written(self.request.policy)
        self.script = list(paths[list(Verdict).index(found)])

    def next_token(self, likeliest: int, draw: Callable[[], int]) -> int:
        """The next token: nothing of a reflection is drawn once its opening is complete."""
        if self.script:
            return self.script.pop(0)
        return likeliest if self.guard.reading else draw()

    def force(self, safe: float, controversial: float, unsafe: float) -> None:
        """Act on the probabilities that a forced reflection behind its text has read."""
        self._show(self.guard.force(ForcedReflection(self.guard.num_tokens, safe, controversial, unsafe)))
        # One on the prompt comes before the prefill and does not judge it.
        self.since = 0 if self.guard.num_tokens else len(self.request.prefill)

    def finish(self) -> None:
        """End it here, with `length`."""
        self._show(self.guard.finish("length"))

    def due(self) -> bool:
        """Whether it is time for a forced reflection. It waits a while for one that the model may be writing."""
        every = self.request.policy.reflect_every
        return 0 < every <= self.since and (not self.guard.reflecting or self.since >= every + PATIENCE)

    def due_at_end(self) -> bool:
        """Whether one is due because the answer ends here."""
        return self.request.policy.reflect_every > 0 and self.since > 0

    def _show(self, text: str) -> None:
        if text:
            self._on_text(text)
