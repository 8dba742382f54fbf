"""Prompts that are read a chunk at a time, so that running answers do not wait for all of a long one."""

from collections.abc import Callable, Sequence

from megatron_srp.generation.engines.hf.batch import CachedBatch
from megatron_srp.generation.engines.request import Answer
from megatron_srp.generation.guard.policy import TokenScore
from megatron_srp.verdict_tree import VerdictTree

SCORED_CHUNK = 256  # tokens; the logits after each of them are kept for a moment


class Reading:
    """The prompts of answers that begin together, then their reflections on the prompts, then their prefills.

    Equal prompts, as those of one request with `n`, are read once.

    Args:
        new_batch: makes a batch of N texts.
        tree: of forced reflections.

    Attributes:
        answers: those that have not ended.
        batch: once all is read, a row for each of them.
    """

    def __init__(self, answers: Sequence[Answer], new_batch: Callable[[int], CachedBatch], tree: VerdictTree) -> None:
        self.answers, self._tree = list(answers), tree
        prompts: dict[tuple[int, ...], int] = {}
        self._row_of = [prompts.setdefault(tuple(answer.request.prompt), len(prompts)) for answer in answers]
        self._left: list[Sequence[int]] = list(prompts)
        self.batch = new_batch(len(prompts))
        self._in_prefill = False
        self._scored = any(answer.request.scored for answer in answers)
        self._scores: list[list[TokenScore | None]] = [[] for _ in prompts]

    @property
    def left(self) -> int:
        """Tokens to read before the next stop."""
        return sum(map(len, self._left))

    def read(self, budget: int) -> bool:
        """Read up to about that many tokens; returns whether all is read."""
        while budget > 0:
            budget -= self._feed(budget)
            if any(self._left):
                continue
            if not self._in_prefill:
                self._begin_prefill()
            if not any(self._left):
                return True
        return False

    def _feed(self, budget: int) -> int:
        """One chunk of each text; returns its tokens."""
        scored = self._scored and not self._in_prefill
        share = max(min(budget, SCORED_CHUNK if scored else budget) // sum(1 for left in self._left if left), 1)
        chunk = [left[:share] for left in self._left]
        for scores, found in zip(self._scores, self.batch.feed(chunk, scored), strict=False):
            scores += found
        self._left = [left[share:] for left in self._left]
        return sum(map(len, chunk))

    def _begin_prefill(self) -> None:
        for answer, row in zip(self.answers, self._row_of, strict=True):
            answer.scores = tuple(self._scores[row]) if answer.request.scored else ()
            if not (answer.request.max_new_tokens or answer.request.policy.reflects_on_prompt):
                answer.finish()
        self._reflect()
        self._spread()
        self._in_prefill = True
        self._left = [answer.request.prefill for answer in self.answers]

    def _reflect(self) -> None:
        """Judge the prompts for those answers that want it."""
        if not any(answer.request.policy.reflects_on_prompt for answer in self.answers):
            return
        found = self.batch.verdicts(self._tree).tolist()
        for answer, row in zip(self.answers, self._row_of, strict=True):
            if answer.request.policy.reflects_on_prompt:
                answer.force(*found[row])

    def _spread(self) -> None:
        """From a row for each prompt to one for each answer that has not ended."""
        going = [(answer, row) for answer, row in zip(self.answers, self._row_of, strict=True) if not answer.ended]
        self.answers = [answer for answer, _ in going]
        rows = [row for _, row in going]
        if rows and rows != list(range(len(self.batch.logits))):
            self.batch.keep(rows)
