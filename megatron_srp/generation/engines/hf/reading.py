"""Prompts that are read a chunk at a time, so that running answers do not wait for all of a long one."""

from collections.abc import Callable, Sequence

from megatron_srp.generation.engines.hf.batch import CachedBatch
from megatron_srp.generation.engines.request import Answer
from megatron_srp.verdict_tree import VerdictTree


class Reading:
    """The prompts of answers that begin together, then their reflections on the prompts, then their prefills.

    Equal prompts, as those of one request with `n`, are read once.

    Args:
        new_batch: makes a batch of so many texts.
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
        share = max(budget // sum(1 for left in self._left if left), 1)
        chunk = [left[:share] for left in self._left]
        self.batch.feed(chunk)
        self._left = [left[share:] for left in self._left]
        return sum(map(len, chunk))

    def _begin_prefill(self) -> None:
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
