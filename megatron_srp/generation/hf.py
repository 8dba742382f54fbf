"""transformers as the engine of guarded generation: batched, with a cache of keys and values, on CPU or GPU.

A forced reflection leaves no trace: its tokens are read behind the text and taken out of the cache again,
so that the text goes on as if nobody had asked. One on the prompt comes before any prefill. It waits while
the model writes a reflection of its own, which counts as one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from megatron_srp.generation.guard import ReflectionGuard
from megatron_srp.generation.hf_batch import CachedBatch
from megatron_srp.generation.hf_sampling import Sampler, Sampling
from megatron_srp.generation.policy import ForcedReflection, Generation, GuardPolicy
from megatron_srp.generation.verdict_tree import VerdictTree
from megatron_srp.generation.vocabulary import GuardVocabulary


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to generate.

    Attributes:
        prompt: token ids, at least one.
        prefill: ids that the answer begins with; the guard does not see them.
        spaced: whether a space sets a reflection right behind the prompt off, as inside a text.
    """

    prompt: Sequence[int]
    prefill: Sequence[int] = ()
    policy: GuardPolicy = field(default_factory=GuardPolicy)
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 256
    spaced: bool = True


@dataclass(slots=True, eq=False)
class _Row:
    """One answer on its way: where it stands in the results, and tokens since its last reflection."""

    index: int
    request: Request
    guard: ReflectionGuard
    sampler: Sampler
    since: int = 0
    reflections: int = 0


class HFGenerator:
    """Generates with a causal language model of transformers.

    Args:
        model: in evaluation mode, on its device.
        trees: True, of reflections that a space sets off; False, of those that none does.
    """

    def __init__(self, model: Any, vocabulary: GuardVocabulary, trees: dict[bool, VerdictTree]) -> None:
        self._model, self.vocabulary, self.trees = model, vocabulary, trees

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        on_text: Callable[[int, str], None] = lambda index, text: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[Generation]:
        """An answer to each request, all of them together.

        Args:
            on_text: called with a request's index and text to show, as soon as it may be shown.
            cancelled: asked before each token; the answers end there with `length` when it says so.
        """
        rows = [
            _Row(i, request, ReflectionGuard(self.vocabulary, request.policy), Sampler(request.sampling))
            for i, request in enumerate(requests)
        ]
        run = _Run(CachedBatch(self._model, len(rows)), rows, self.trees, on_text)
        guards = [row.guard for row in rows]
        run.start()
        while run.rows and not cancelled():
            run.step()
        for row in run.rows:
            on_text(row.index, row.guard.finish("length"))
        return [guard.result() for guard in guards]


@dataclass(slots=True)
class _Run:
    """The rows that have not ended, and the batch that holds them."""

    batch: CachedBatch
    rows: list[_Row]
    trees: dict[bool, VerdictTree]
    on_text: Callable[[int, str], None]

    def start(self) -> None:
        """Read the prompts, reflect on them, then read the prefills."""
        self.batch.feed([row.request.prompt for row in self.rows])
        for spaced in (False, True):
            self.force(
                [r for r in self.rows if r.request.spaced == spaced and r.request.policy.reflects_on_prompt], spaced
            )
        self.drop()
        if any(row.request.prefill for row in self.rows):
            self.batch.feed([row.request.prefill for row in self.rows])
        for row in self.rows:
            row.since = len(row.request.prefill)  # which no reflection has judged

    def step(self) -> None:
        """One token for each row, and the forced reflections that are due."""
        tokens = [row.sampler(logits) for row, logits in zip(self.rows, self.batch.logits, strict=True)]
        ending = [r for r, t in zip(self.rows, tokens, strict=True) if r.guard.ends(t) and self.reflects(r)]
        self.force([row for row in ending if row.since])  # before the end
        for row, token in zip(self.rows, tokens, strict=True):
            self.on_text(row.index, row.guard.push(token))
            row.since += 1
            if row.guard.num_reflections > row.reflections:
                row.since, row.reflections = 0, row.guard.num_reflections
        tokens = self.drop(tokens)
        if not self.rows:
            return
        self.batch.feed([[token] for token in tokens])
        last = [row for row in self.rows if row.guard.num_tokens >= row.request.max_new_tokens]
        self.force([row for row in self.rows if self.due(row, row in last)])
        for row in last:
            self.on_text(row.index, row.guard.finish("length"))
        self.drop()

    @staticmethod
    def reflects(row: _Row) -> bool:
        return row.request.policy.reflect_every > 0

    def due(self, row: _Row, last: bool) -> bool:
        """Whether a forced reflection is due behind the row's text."""
        enough = row.since >= row.request.policy.reflect_every or (last and row.since > 0)
        return self.reflects(row) and enough and (last or not row.guard.reflecting)

    def force(self, rows: list[_Row], spaced: bool = True) -> None:
        """Reflect on the texts of `rows`: all are read, and these are judged."""
        if not rows:
            return
        found = self.batch.verdicts(self.trees[spaced]).tolist()
        for row, (safe, controversial, unsafe) in zip(self.rows, found, strict=True):
            if row in rows:
                reflection = ForcedReflection(row.guard.num_tokens, safe, controversial, unsafe)
                self.on_text(row.index, row.guard.force(reflection))
                row.since = 0

    def drop(self, tokens: Sequence[int] = ()) -> list[int]:
        """Leave out the rows that have ended; returns the tokens of the others."""
        going = [i for i, row in enumerate(self.rows) if not row.guard.stop_reason]
        if going and len(going) < len(self.rows):
            self.batch.keep(going)
        self.rows = [self.rows[i] for i in going]
        return [tokens[i] for i in going] if tokens else []
