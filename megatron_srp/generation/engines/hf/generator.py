"""transformers as the engine of guarded generation: batched, with a cache of keys and values, on CPU or GPU.

A forced reflection leaves no trace: its tokens are read after the text and then removed from the cache,
so that the text continues as if they had never been read. One on the prompt comes before any prefill.
"""

from collections.abc import Sequence
from typing import Any

import torch

from megatron_srp.generation.engines.base import GuardedEngine, Session
from megatron_srp.generation.engines.hf.batch import CachedBatch
from megatron_srp.generation.engines.hf.sampling import Sampler, next_tokens
from megatron_srp.generation.engines.request import Answer, Request
from megatron_srp.generation.guard.decision import OpenedTree
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.verdict_tree import VerdictTree

__all__ = ["HFGenerator", "HFSession", "Request"]


class HFGenerator(GuardedEngine):
    """Generates with a causal language model of transformers.

    Args:
        model: in evaluation mode, on its device.
        tree: of forced reflections.
    """

    def __init__(self, model: Any, vocabulary: GuardVocabulary, tree: VerdictTree) -> None:
        self._model, self.vocabulary, self._tree = model, vocabulary, tree
        self._opened = OpenedTree.of(tree, vocabulary)

    def session(self) -> "HFSession":
        return HFSession(self._model, self._tree, self._opened)


class HFSession(Session):
    """A batch whose rows come and go: a new answer is read by itself and then joins the running ones."""

    def __init__(self, model: Any, tree: VerdictTree, opened: OpenedTree | None) -> None:
        self._model, self._tree, self._opened = model, tree, opened
        self._batch: CachedBatch
        self._samplers: list[Sampler] = []
        self.answers: list[Answer] = []

    @torch.inference_mode()
    def add(self, answers: Sequence[Answer]) -> None:
        """Read the prompts, reflect on them, then read the prefills."""
        if not answers:
            return
        new = HFSession(self._model, self._tree, self._opened)
        new._start(answers)
        if self.answers and new.answers:
            self._batch.join(new._batch)
        elif new.answers:
            self._batch = new._batch
        self.answers += new.answers
        self._samplers += new._samplers

    def _start(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self._samplers = [Sampler(answer.request.sampling) for answer in answers]
        self._batch = CachedBatch(self._model, len(answers))
        self._batch.feed([answer.request.prompt for answer in answers])
        self._force([answer for answer in answers if answer.request.policy.reflects_on_prompt])
        self._drop()
        if any(answer.request.prefill for answer in self.answers):
            self._batch.feed([answer.request.prefill for answer in self.answers])

    @torch.inference_mode()
    def step(self) -> None:
        """One token for each row, and the forced reflections that are due."""
        self._drop()  # those whose reader is gone
        if any(answer.stopping for answer in self.answers):
            self._reflect([answer for answer in self.answers if answer.stopping])
        if not self.answers:
            return
        tokens = next_tokens(self.answers, self._samplers, self._batch.logits)
        pairs = list(zip(self.answers, tokens, strict=True))
        self._force(self._settled([answer for answer, token in pairs if answer.guard.ends(token)]), whole=True)
        for answer, token in pairs:
            answer.push(token)
        tokens = self._drop(tokens)
        if not self.answers:
            return
        self._batch.feed([[token] for token in tokens])
        self._decide()
        self._reflect([answer for answer in self.answers if answer.room <= 0])

    def _reflect(self, last: list[Answer]) -> None:
        """Force the reflections that are due, and end the answers of `last`, judged."""
        self._force(self._settled(last) + [a for a in self.answers if a not in last and a.due()])
        for answer in last:
            answer.finish()
        self._drop()

    def _settled(self, last: list[Answer]) -> list[Answer]:
        """Those of them that still have to be judged, since they end here."""
        for answer in last:
            answer.settle()
        return [answer for answer in last if answer.due_at_end()]

    def _decide(self) -> None:
        """Decide on the verdicts of the answers that have just opened a reflection."""
        if self._opened is None or not any(answer.guard.opened for answer in self.answers):
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
