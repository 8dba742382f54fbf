"""An answer whose forced reflections are part of its text, as vLLM writes it.

Elsewhere a forced reflection is read from the side and leaves no trace. A logits processor sees nothing but the next
token of the one text, so here it is written out, as training writes reflections. What is forced where follows from the
tokens alone: the engine, which forces it, and the server, which hides it, each follow an answer with this class.
"""

import math
from dataclasses import dataclass

from megatron_srp.errors import UsageError
from megatron_srp.generation.engines.request import PATIENCE
from megatron_srp.generation.guard.decision import OpenedTree
from megatron_srp.generation.guard.policy import ForcedReflection, Generation, GuardPolicy
from megatron_srp.generation.guard.reflection_guard import ReflectionGuard
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.reflection import Encoder, ReflectionFormat
from megatron_srp.schema import Verdict
from megatron_srp.verdict_tree import VerdictTree, common_beginning


@dataclass(frozen=True, slots=True)
class ReflectionTokens:
    """How a tokenizer writes reflections.

    Attributes:
        opening: the tokens of ` <think>`.
        shared: what follows it whatever the verdict is; mostly nothing.
        paths: for each verdict, in the order of `Verdict`, the tokens after that.
        closing: the tokens of ` </think>`.
        eos: the end-of-text token.
    """

    vocabulary: GuardVocabulary
    opening: tuple[int, ...]
    shared: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    closing: tuple[int, ...]
    eos: int

    @classmethod
    def of(
        cls, vocabulary: GuardVocabulary, tree: VerdictTree, form: ReflectionFormat, tokenizer: Encoder
    ) -> "ReflectionTokens":
        """Of a tokenizer and the verdict tree of its reflections.

        Raises:
            UsageError: when the first token after the opening does not distinguish the verdicts. One pass over the
                text is all that a logits processor has.
        """
        opened = OpenedTree.of(tree, vocabulary)
        shared = common_beginning(opened.paths)
        apart = [path[len(shared) :] for path in opened.paths]
        if len({path[0] for path in apart}) < len(Verdict):
            raise UsageError(
                f"with this tokenizer the first token after {form.open} does not tell the verdicts apart; serve the "
                "model with srp serve --engine vllm, which reads all of their tokens"
            )
        opening = tree.root[: len(tree.root) - len(shared)]
        closing = tokenizer.encode_inside(f" {form.close}")
        return cls(vocabulary, opening, tuple(shared), tuple(apart), tuple(closing), tokenizer.require_eos())

    @property
    def choices(self) -> list[int]:
        """The token of each verdict whose probability counts."""
        return [path[0] for path in self.paths]

    @property
    def longest(self) -> int:
        """The most tokens that a forced reflection takes, with the end of the text."""
        return len(self.opening) + len(self.shared) + max(map(len, self.paths)) + len(self.closing) + 1


class InlineAnswer:
    """Follows one answer, token by token.

    Args:
        room: how many tokens it may have; the last are kept for judging its end.

    Attributes:
        guard: what the reader sees, and what was reflected.
        cut: whether it ends for lack of room.
    """

    def __init__(self, tokens: ReflectionTokens, policy: GuardPolicy, room: float = math.inf) -> None:
        self._tokens, self._policy, self._room = tokens, policy, room
        self.guard = ReflectionGuard(tokens.vocabulary, policy)
        self._script: list[int] = []
        self._undecided = self._forcing = self._ending = self.cut = False
        self._shared_left = 0
        if policy.reflects_on_prompt:
            self._force()
        self._plan()

    @property
    def forced(self) -> int | None:
        """The token that has to come next, if one has to."""
        return self._script[0] if self._script else None

    @property
    def deciding(self) -> bool:
        """Whether the next token is that of a verdict, and `decide` is to be called first; again if none has come."""
        return self._undecided and not self._shared_left

    @property
    def judges_its_end(self) -> bool:
        """Whether a reflection has to come before an end-of-text token; then `end` takes the token's place."""
        return self._policy.judges_end and self.guard.unjudged > 0

    def push(self, token: int) -> str:
        """Take the next token; returns text to show now."""
        self._undecided &= self._shared_left > 0
        self._shared_left = max(self._shared_left - 1, 0)
        self._script = self._script[1:] if self.forced == token else []
        shown = self.guard.push(token)
        self._plan()
        return shown

    def decide(self, *probabilities: float) -> ForcedReflection:
        """Decide on the verdict that comes next, from the probabilities of the three."""
        found = ForcedReflection(self.guard.num_tokens, *probabilities)
        verdict = found.written(self._policy)
        stops = self._policy.stops(found.label(self._policy))
        self._script = list(self._tokens.paths[list(Verdict).index(verdict)])
        if stops or self._forcing:  # the rest of its own the model writes as it was trained to
            self._script += self._tokens.closing
        if stops:
            self._script.append(self._tokens.eos)
        return found

    def end(self) -> None:
        """The model ends the answer here: have the end judged first."""
        self._ending = True
        self._force()

    def finish(self) -> str:
        """The engine has ended it; returns the last text to show."""
        return self.guard.finish("length")

    def result(self) -> Generation:
        """The answer, which has ended."""
        return self.guard.result()

    def _force(self) -> None:
        self._script, self._forcing = list(self._tokens.opening), True

    def _plan(self) -> None:
        """What has to come next, from the tokens so far."""
        guard = self.guard
        if guard.stop_reason:
            self._script = [self._tokens.eos]
        elif guard.opened:
            self._undecided, self._script = True, list(self._tokens.shared)
            self._shared_left = len(self._script)
        elif not (self._script or self._undecided or guard.reading):
            self._plan_between()

    def _plan_between(self) -> None:
        """Where no reflection is being written."""
        guard = self.guard
        if guard.num_tokens:
            self._forcing = False
        if self._ending:
            self._script = [self._tokens.eos]
        elif self._policy.judges_end and self._room - guard.num_tokens <= self._tokens.longest:
            self._cut()
        elif self._due():
            guard.mid_segment = True
            self._force()

    def _cut(self) -> None:
        """End it for lack of room: judged first, except where what is not judged as a whole is withheld anyway."""
        self.cut = True
        if self._policy.on_unsafe == "retract" or not self.guard.unjudged:
            self._script = [self._tokens.eos]
        elif self._room - self.guard.num_tokens >= self._tokens.longest:
            self.end()

    def _due(self) -> bool:
        """Whether it is time for a forced reflection: an interval after the last one of either kind."""
        every = self._policy.reflect_every
        late = self.guard.unjudged - every
        return every > 0 and late >= 0 and (not self.guard.reflecting or late >= PATIENCE)
