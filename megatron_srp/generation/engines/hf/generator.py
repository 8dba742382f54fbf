"""transformers as the engine of guarded generation: batched, with a cache of keys and values, on CPU or GPU.

A forced reflection leaves no trace: its tokens are read after the text and then removed from the cache,
so that the text continues as if they had never been read. One on the prompt comes before any prefill.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from megatron_srp.generation.engines.base import GuardedEngine, Session
from megatron_srp.generation.engines.hf.batch import CachedBatch
from megatron_srp.generation.engines.hf.reading import Reading
from megatron_srp.generation.engines.hf.rows import Rows
from megatron_srp.generation.engines.request import Answer, Request
from megatron_srp.generation.guard.decision import OpenedTree
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.verdict_tree import VerdictTree

__all__ = ["HFGenerator", "HFSession", "Request"]

SHORT = 256  # tokens; texts up to this length are padded to each other
# Prompt tokens that are read at a time: where nothing else runs, and next to running answers.
CHUNK, CHUNK_ON_GPU, SHARED_CHUNK = 2048, 512, 24


class HFGenerator(GuardedEngine):
    """Generates with a causal language model of transformers.

    Args:
        model: in evaluation mode, on its device.
        tree: of forced reflections.
    """

    scores = True

    def __init__(self, model: Any, vocabulary: GuardVocabulary, tree: VerdictTree) -> None:
        self._model, self.vocabulary, self._tree = model, vocabulary, tree
        self._opened = OpenedTree.of(tree, vocabulary)

    def session(self) -> "HFSession":
        return HFSession(self._model, self._tree, self._opened)


class HFSession(Session):
    """Answers that come and go: prompts are read in chunks next to the running answers, in turn, and those of similar
    length are generated together, so that a long one does not pad the short ones."""

    def __init__(self, model: Any, tree: VerdictTree, opened: OpenedTree) -> None:
        self._model, self._tree, self._opened = model, tree, opened
        self._readings: deque[Reading] = deque()
        self._rows: list[Rows] = []

    @property
    def answers(self) -> list[Answer]:  # type: ignore[override]
        running = [answer for rows in self._rows for answer in rows.answers]
        return running + [answer for reading in self._readings for answer in reading.answers]

    @property
    def width(self) -> int:
        """Tokens of the longest text that is being generated, with its padding."""
        return max((rows.width for rows in self._rows), default=0)

    def add(self, answers: Sequence[Answer]) -> None:
        """Queue the prompts, those of similar length together."""
        by_bucket: dict[int, list[Answer]] = {}
        for answer in answers:
            by_bucket.setdefault(_bucket(len(answer.request.prompt)), []).append(answer)
        self._readings += [Reading(some, self._new_batch, self._tree) for some in by_bucket.values()]

    @torch.inference_mode()
    def step(self) -> None:
        """A chunk of the prompts, and one token for each running answer."""
        self._read()
        for rows in self._rows:
            rows.step()
        self._merge()

    def close(self) -> None:
        self._readings.clear()
        self._rows.clear()

    def _new_batch(self, n: int) -> CachedBatch:
        return CachedBatch(self._model, n)

    def _read(self) -> None:
        """Each prompt is read in turn: a short one does not wait for a long one either."""
        budget, turns = self._budget(), len(self._readings)
        while budget > 0 and turns > 0:
            reading, turns = self._readings.popleft(), turns - 1
            for answer in reading.answers:
                if answer.stopping:
                    answer.finish()
            if any(not answer.ended for answer in reading.answers):
                budget -= reading.left
                self._read_on(reading, budget + reading.left)

    def _read_on(self, reading: Reading, budget: int) -> None:
        """Read a chunk of it; when that was the last, its answers begin."""
        try:
            done = reading.read(budget)
        except Exception as error:  # out of memory, say: the running answers continue
            for answer in reading.answers:
                answer.fail(error)
            return
        if not done:
            self._readings.append(reading)
        elif reading.answers:
            self._rows.append(Rows(reading.answers, reading.batch, self._tree, self._opened))
            self._merge()

    def _budget(self) -> int:
        """Tokens to read now: few next to running answers, which on a CPU wait for every one of them."""
        if not self._rows:
            return CHUNK
        return SHARED_CHUNK if self._model.device.type == "cpu" else CHUNK_ON_GPU

    def _merge(self) -> None:
        """Join rows that have come to similar lengths, and drop empty ones."""
        kept: dict[int, Rows] = {}
        for rows in self._rows:
            if not rows.answers:
                continue
            other = kept.setdefault(_bucket(rows.width), rows)
            if other is not rows:
                other.join(rows)
        self._rows = list(kept.values())


def _bucket(length: int) -> int:
    """Equal for lengths up to `SHORT`, and for those that differ by less than a factor of two."""
    return max(length - 1, SHORT - 1).bit_length()
