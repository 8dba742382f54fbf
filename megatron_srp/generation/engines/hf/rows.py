"""Answers of similar length that are generated together, a token each at a time."""

from collections.abc import Sequence

from megatron_srp.generation.engines.hf.batch import CachedBatch
from megatron_srp.generation.engines.hf.sampling import Sampler, next_tokens
from megatron_srp.generation.engines.request import Answer
from megatron_srp.generation.guard.decision import OpenedTree
from megatron_srp.verdict_tree import VerdictTree


class Rows:
    """A batch whose rows leave when their answers end, and which other rows join.

    Args:
        answers: whose prompts and prefills `batch` has read, in order.
        tree, opened: of forced reflections, and of those that the model opens itself.

    Attributes:
        answers: those that have not ended.
    """

    def __init__(self, answers: Sequence[Answer], batch: CachedBatch, tree: VerdictTree, opened: OpenedTree) -> None:
        self.answers, self._batch, self._tree, self._opened = list(answers), batch, tree, opened
        self._samplers = [Sampler(answer.request.sampling) for answer in answers]

    @property
    def width(self) -> int:
        """Tokens of the longest text; all others are padded to it."""
        return self._batch.width

    def join(self, other: "Rows") -> None:
        """Take the rows of `other`, which must not be used afterwards."""
        self._batch.join(other._batch)
        self.answers += other.answers
        self._samplers += other._samplers

    def step(self) -> None:
        """One token for each row, and the forced reflections that are due."""
        self._drop()  # those whose reader is gone
        if any(answer.stopping for answer in self.answers):
            self._reflect([answer for answer in self.answers if answer.stopping])
        if not self.answers:
            return
        tokens = next_tokens(self.answers, self._samplers, self._batch.logits)
        pairs = list(zip(self.answers, tokens, strict=True))
        ending = [answer for answer, token in pairs if answer.guard.ends(token)]
        self._force(self._settled(ending, whole=True), whole=True)
        self._score(tokens)
        for answer, token in pairs:
            answer.push(token)
        tokens = self._drop(tokens)
        if not self.answers:
            return
        self._batch.feed([[token] for token in tokens])
        self._decide()
        self._reflect([answer for answer in self.answers if answer.room <= 0])

    def _score(self, tokens: Sequence[int]) -> None:
        """Keep how likely each of these next tokens is, for the answers that want it."""
        for row, (answer, token) in enumerate(zip(self.answers, tokens, strict=True)):
            if answer.request.logprobs and not answer.ended:
                answer.logprobs.append(self._batch.score(row, token))

    def _reflect(self, last: list[Answer]) -> None:
        """Force the reflections that are due, and end the answers of `last`, judged."""
        self._force(self._settled(last) + [a for a in self.answers if a not in last and a.due()])
        for answer in last:
            answer.finish()
        self._drop()

    def _settled(self, last: list[Answer], whole: bool = False) -> list[Answer]:
        """Those of them that still have to be judged, since they end here; `whole` where they end themselves."""
        for answer in last:
            answer.settle()
        return [answer for answer in last if answer.due_at_end(whole)]

    def _decide(self) -> None:
        """Decide on the verdicts of the answers that have just opened a reflection."""
        if not any(answer.guard.opened for answer in self.answers):
            return
        found = self._batch.verdicts(self._opened.tree).tolist()
        for answer, probabilities in zip(self.answers, found, strict=True):
            if answer.guard.opened:
                answer.decide(self._opened.paths, *probabilities)

    def _force(self, answers: list[Answer], whole: bool = False) -> None:
        """Reflect on the texts of `answers`: all are read, and these are judged; `whole` where they end themselves."""
        if not answers:
            return
        found = self._batch.verdicts(self._tree).tolist()
        for answer, probabilities in zip(self.answers, found, strict=True):
            if answer in answers:
                answer.force(*probabilities, whole=whole)

    def _drop(self, tokens: Sequence[int] = ()) -> list[int]:
        """Drop the answers that have ended; returns the tokens of the others."""
        going = [i for i, answer in enumerate(self.answers) if not answer.ended]
        if going and len(going) < len(self.answers):
            self._batch.keep(going)
        self.answers = [self.answers[i] for i in going]
        self._samplers = [self._samplers[i] for i in going]
        return [tokens[i] for i in going] if tokens else []
