"""Requests to an engine, how tokens are chosen, and an answer in progress. Does not import torch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.policy import (
    ForcedReflection,
    Generation,
    GuardPolicy,
    ShownScore,
    TokenScore,
)
from megatron_srp.generation.guard.reflection_guard import ReflectionGuard
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.schema import Verdict

PATIENCE = 64  # tokens; text that always looks like the start of a reflection cannot postpone a forced one forever


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 for the most likely token.
        top_p: draw among the most likely tokens that have this probability together.
        seed: of the draws; each text has its own, so that it does not depend on its neighbours.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise UsageError(f"--temperature {self.temperature}: pass 0 (the most likely token) or a number above it")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p}: pass a probability above 0, at most 1")


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
        max_new_tokens: maximum length of the answer; 0 if the prompt is to be judged or scored and no more.
        scored: whether the log-probabilities of the prompt's tokens are wanted.
        logprobs: whether those of the answer's tokens are.
    """

    prompt: Sequence[int]
    prefill: Sequence[int] = ()
    policy: GuardPolicy = field(default_factory=GuardPolicy)
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 256
    scored: bool = False
    logprobs: bool = False

    @property
    def most_tokens(self) -> int:
        """How long prompt and answer together may become."""
        return len(self.prompt) + len(self.prefill) + self.max_new_tokens


class Answer:
    """One answer in progress: its guard, and when a forced reflection is due.

    Args:
        on_text: called with text to show, as soon as it may be shown.

    Attributes:
        begun: `time.monotonic()` at its start.
        script: tokens that come next, since a verdict has been decided on.
        error: what made it fail, if it did.
        scores: of the prompt's tokens, if they are wanted.
        logprobs: of the answer's tokens, if they are.
        stopping: whether the engine has to end it at the next step, as if the limit of tokens were reached.
    """

    def __init__(self, request: Request, vocabulary: GuardVocabulary, on_text: Callable[[str], None]) -> None:
        self.request, self.guard = request, ReflectionGuard(vocabulary, request.policy)
        self.guard.unjudged = len(request.prefill)
        self._on_text = on_text
        self.begun = time.monotonic()
        self.script: list[int] = []
        self.stopping = False
        self.error: Exception | None = None
        self.scores: tuple[TokenScore | None, ...] = ()
        self.logprobs: list[TokenScore] = []
        self._decided: ForcedReflection | None = None
        self._forced_at = 0  # the last one but that on the prompt, in tokens with the prefill

    @property
    def ended(self) -> bool:
        return self.guard.stop_reason is not None

    @property
    def room(self) -> int:
        """How many more tokens it may get."""
        return self.request.max_new_tokens - self.guard.num_tokens

    def push(self, token: int) -> None:
        """Take the next token."""
        self._show(self.guard.push(token))
        if not self.guard.reading:  # the verdict has been written: it decides on no later text
            self._decided = None

    def decide(self, paths: Sequence[Sequence[int]], *probabilities: float) -> None:
        """Decide on the verdict that follows an opening, from the probabilities of the three.

        Args:
            paths: for each verdict, in the order of `Verdict`, the tokens that write it.
        """
        self._decided = ForcedReflection(self.guard.num_tokens, *probabilities)
        found = self._decided.written(self.request.policy)
        self.script = list(paths[list(Verdict).index(found)])

    def next_token(self, likeliest: int, draw: Callable[[], int]) -> int:
        """The next token: nothing of a reflection is drawn once its opening is complete."""
        if self.script:
            return self.script.pop(0)
        return likeliest if self.guard.reading else draw()

    def force(self, safe: float, controversial: float, unsafe: float, *, whole: bool = False) -> None:
        """Act on the probabilities that a forced reflection after its text has read.

        Args:
            whole: whether the model ends the answer here.
        """
        self._show(self.guard.force(ForcedReflection(self.guard.num_tokens, safe, controversial, unsafe), whole))
        if self.guard.num_tokens:
            self._forced_at = self._length
        else:  # one on the prompt comes before the prefill and does not judge it
            self.guard.unjudged = len(self.request.prefill)
            if not self.request.max_new_tokens:
                self.finish()

    def refuse_prompt(self, found: ForcedReflection, threshold: float) -> None:
        """End it before it begins: another model reads a verdict on its prompt that reaches that model's threshold."""
        self._show(self.guard.force(found, threshold=threshold))

    def result(self) -> Generation:
        """What its reader gets, once it has ended."""
        return replace(self.guard.result(), scores=self.scores, logprobs=self._shown_scores())

    def _shown_scores(self) -> tuple[ShownScore, ...]:
        """Of the tokens that are shown, where they are wanted: the others are nobody's to know."""
        if not self.logprobs:
            return ()
        tokens, found = self.guard.tokens, self.guard.shown.found()
        return tuple(ShownScore(tokens[at], start, end, self.logprobs[at]) for at, start, end in found)

    def settle(self) -> None:
        """Act on a verdict that has been decided on, where the answer ends before it is written in full."""
        if self._decided and self.guard.reading:
            self._show(self.guard.force(self._decided))

    def finish(self) -> None:
        """End it here, with `length`."""
        self._show(self.guard.finish("length"))

    def fail(self, error: Exception) -> None:
        """End it because of an error that concerns no other answer."""
        self.error = error
        self.guard.finish("length")

    def due(self) -> bool:
        """Whether it is time for a forced reflection. It waits a while for one that the model may be writing."""
        late = self._length - self._due_at
        return late >= 0 and (not self.guard.reflecting or late >= PATIENCE)

    @property
    def until_due(self) -> int:
        """How many tokens it may get before the next forced reflection; 1 while that waits."""
        return max(int(min(self._due_at - self._length, self.room)), 1)

    def due_at_end(self, whole: bool = False) -> bool:
        """Whether one is due because the answer ends here: its last tokens are not judged, or, if `whole`, they were
        judged as the middle of a segment."""
        held = whole and self.guard.withholds and not self.guard.reflecting
        return self.request.policy.judges_end and (self.guard.unjudged > 0 or held)

    @property
    def _length(self) -> int:
        return len(self.request.prefill) + self.guard.num_tokens

    @property
    def _due_at(self) -> float:
        """The first multiple of `reflect_every` after the last forced one. The model's own reflections postpone none,
        and if one interval divides another, the smaller judges wherever the larger does."""
        every = self.request.policy.reflect_every
        return (self._forced_at // every + 1) * every if every else math.inf

    def _show(self, text: str) -> None:
        if text:
            self._on_text(text)
