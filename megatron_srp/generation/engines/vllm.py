"""vLLM as the engine of guarded generation: its own scheduler and paged cache, with prefix caching.

Tested on vLLM 0.32. An answer is written in pieces, each
a vLLM request: a piece ends at an end-of-text token, where the model opens a reflection, or where a forced
one is due. Both kinds of verdict are read by further requests for a single token, one for each token of the verdict
tree after which a probability counts; they share the text, whose keys and values are in the cache already. Then the
next piece continues from the cache. Each piece is drawn with its own seed, so at a temperature another interval of
forced reflections gives another draw from the same distribution.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from megatron_srp.errors import UsageError
from megatron_srp.generation.engines.base import GuardedEngine, Session
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Answer
from megatron_srp.generation.guard.decision import OpenedTree
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.verdict_tree import VerdictTree


class VLLMModel(PromptedModel):
    """A model folder on this machine's GPUs.

    Args:
        folder: model and tokenizer, or a name on the hub.
        form: how the model writes reflections; by default as its `srp.json` says.
        dtype: of the weights; vLLM chooses by default.
        settings: further fields of vLLM's EngineArgs, such as `tensor_parallel_size`.

    Raises:
        UsageError: when vLLM is not installed, or cannot load the model.
    """

    def __init__(
        self, folder: str, form: ReflectionFormat | None = None, dtype: str | None = None, **settings: Any
    ) -> None:
        try:
            from vllm import EngineArgs, LLMEngine
        except ImportError:
            raise UsageError(
                "--engine vllm needs vllm, not installed here; pip install 'megatron-srp[annotate]'"
            ) from None
        given: dict[str, Any] = {
            "model": folder,
            "skip_tokenizer_init": True,  # ids go in, ids come out
            "dtype": dtype or "auto",
            "seed": 0,
            "enable_prefix_caching": True,
            "logprobs_mode": "raw_logprobs",  # over the whole vocabulary, before temperature
            **settings,
        }
        try:
            engine = LLMEngine.from_engine_args(EngineArgs(**given))
        except Exception as error:  # of many libraries
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"--engine vllm: {folder} cannot be loaded ({type(error).__name__}: {reason})") from error
        super().__init__(folder, form, _eos_ids(engine.model_config))
        self.max_length = int(engine.model_config.max_model_len) - 1  # vLLM writes a token for each it reads
        self.generator = VLLMGenerator(engine, self.vocabulary, self.tree)


class VLLMGenerator(GuardedEngine):
    """Generates with vLLM's synchronous engine; one session at a time, from one thread."""

    def __init__(self, engine: Any, vocabulary: GuardVocabulary, tree: VerdictTree) -> None:
        self._engine, self.vocabulary, self._tree = engine, vocabulary, tree
        self._opened = OpenedTree.of(tree, vocabulary)

    def session(self) -> "VLLMSession":
        return VLLMSession(self._engine, self.vocabulary, self._tree, self._opened)


@dataclass(slots=True, eq=False)
class _Row:
    """An answer, all its tokens so far, and the vLLM requests that are running for it.

    Attributes:
        ending: whether it is being judged for the last time, since it was asked to stop.
    """

    answer: Answer
    ids: list[int]
    requests: set[str] = field(default_factory=set)
    logprobs: dict[tuple[int, int], float] = field(default_factory=dict)
    ending: bool = False


class VLLMSession(Session):
    """Answers that vLLM is generating."""

    def __init__(self, engine: Any, vocabulary: GuardVocabulary, tree: VerdictTree, opened: OpenedTree) -> None:
        self._engine, self._tree, self._opened = engine, tree, opened
        self._eos_ids = sorted(vocabulary.eos_ids)
        self._names = itertools.count()
        self._on_output: dict[str, Callable[[Any], None]] = {}
        self._rows: list[_Row] = []
        self.answers: list[Answer] = []

    def add(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            row = _Row(answer, list(answer.request.prompt))
            self._rows.append(row)

            def begin(row: _Row = row) -> None:
                row.ids += row.answer.request.prefill
                self._write(row)

            if answer.request.policy.reflects_on_prompt:
                self._reflect(row, begin)
            else:
                begin()
        self._drop()

    def step(self) -> None:
        self._drop()  # those whose reader is gone
        for row in [row for row in self._rows if row.answer.stopping and not row.ending]:
            row.ending = True
            self._abort(row)
            self._end(row, row.answer.finish)
        self._drop()
        if not self._rows:
            return
        for output in self._engine.step():
            on_output = self._on_output.get(output.request_id)
            if on_output:  # otherwise it was dropped
                on_output(output)
        self._drop()

    def close(self) -> None:
        for row in self._rows:
            self._abort(row)
        self._rows, self.answers = [], []

    def _write(self, row: _Row) -> None:
        """Ask for the next piece of the text."""
        answer, sampling = row.answer, row.answer.request.sampling
        # One token at a time within a reflection: none of it is drawn.
        reading = answer.guard.reading
        seed = (sampling.seed * 1_000_003 + len(row.ids)) % 2**63
        taken = 0

        def on_output(output: Any) -> None:
            nonlocal taken
            completion = output.outputs[0]
            tokens = list(completion.token_ids)[taken:]
            taken += len(tokens)
            self._take(row, tokens, bool(output.finished))

        self._ask(
            row,
            on_output,
            row.ids,
            max_tokens=1 if reading else answer.until_due,
            temperature=0.0 if reading else sampling.temperature,
            top_p=sampling.top_p,
            seed=seed,
            ignore_eos=True,  # the guard knows which end-of-text tokens end an answer
            stop_token_ids=self._eos_ids,
        )

    def _take(self, row: _Row, tokens: Sequence[int], piece_ended: bool) -> None:
        answer = row.answer
        for token in tokens:
            if answer.ended:
                return
            if answer.guard.ends(token):
                self._end(row, partial(answer.push, token), whole=True)
                return
            row.ids.append(token)
            answer.push(token)
            if answer.guard.opened:
                self._abort(row)  # what it has drawn of the verdict is discarded
                self._decide(row)
                return
        if piece_ended and not answer.ended:
            self._go_on(row)

    def _decide(self, row: _Row) -> None:
        """Write the verdict that the probabilities after an opening decide on, and continue."""
        answer, opened = row.answer, self._opened

        def write(*probabilities: float) -> None:
            answer.decide(opened.paths, *probabilities)
            while answer.script and answer.room > 0 and not answer.ended:
                row.ids.append(answer.script.pop(0))
                answer.push(row.ids[-1])
            if not answer.ended:
                self._go_on(row)

        self._read(row, opened.tree, write)

    def _go_on(self, row: _Row) -> None:
        """After a piece: end the answer, reflect on it, or write the next."""
        answer = row.answer
        if answer.room <= 0:
            self._end(row, answer.finish)
        elif answer.due():
            self._reflect(row, lambda: self._write(row))
        else:
            self._write(row)

    def _end(self, row: _Row, then: Callable[[], None], whole: bool = False) -> None:
        """End the answer with `then`, judged; `whole` where the model ends it."""
        row.answer.settle()
        if row.answer.due_at_end(whole):
            self._reflect(row, then, whole)
        else:
            then()

    def _reflect(self, row: _Row, then: Callable[[], None], whole: bool = False) -> None:
        """Read the verdicts after the row's text, act on them, and call `then` if the answer continues."""

        def act(*probabilities: float) -> None:
            row.answer.force(*probabilities, whole=whole)
            if not row.answer.ended:
                then()

        self._read(row, self._tree, act)

    def _read(self, row: _Row, tree: VerdictTree, then: Callable[..., None]) -> None:
        """Call `then` with the probabilities of the verdicts after the row's text."""
        wanted = tree.tokens_at
        row.logprobs.clear()
        pending = set(wanted)

        def reader(at: int) -> Callable[[Any], None]:
            def on_output(output: Any) -> None:
                if not output.finished:
                    return
                listed = output.outputs[0].logprobs[0]
                row.logprobs.update({(at, token): listed[token].logprob for token in wanted[at]})
                pending.discard(at)
                if not pending:
                    then(*_probabilities(tree, row.logprobs))

            return on_output

        for at, tokens in wanted.items():
            self._ask(
                row,
                reader(at),
                row.ids + tree.path_to(at),
                max_tokens=1,
                temperature=0.0,
                ignore_eos=True,
                logprob_token_ids=tokens,
            )

    def _ask(self, row: _Row, on_output: Callable[[Any], None], ids: Sequence[int], **settings: Any) -> None:
        from vllm import SamplingParams, TokensPrompt

        name = f"guarded-{next(self._names)}"

        def take(output: Any) -> None:
            if output.finished:
                row.requests.discard(name)
                self._on_output.pop(name, None)
            on_output(output)

        row.requests.add(name)
        self._on_output[name] = take
        params = SamplingParams(detokenize=False, **settings)
        self._engine.add_request(name, TokensPrompt(prompt_token_ids=list(ids)), params)

    def _drop(self) -> None:
        """Drop the answers that have ended."""
        for row in self._rows:
            if row.answer.ended:
                self._abort(row)
        self._rows = [row for row in self._rows if not row.answer.ended]
        self.answers = [row.answer for row in self._rows]

    def _abort(self, row: _Row) -> None:
        if row.requests:
            self._engine.abort_request(sorted(row.requests))
        for name in row.requests:
            self._on_output.pop(name, None)
        row.requests.clear()


def _probabilities(tree: VerdictTree, logprobs: dict[tuple[int, int], float]) -> list[float]:
    """The verdicts' probabilities, computed from those of their tokens and scaled to sum to 1."""
    sums = [sum(logprobs[read] for read in path) for path in tree.reads]
    weights = [math.exp(value - max(sums)) for value in sums]
    return [weight / sum(weights) for weight in weights]


def _eos_ids(model_config: Any) -> list[int]:
    """End-of-text tokens that the model's generation settings name."""
    found = model_config.try_get_generation_config().get("eos_token_id")
    return [] if found is None else [found] if isinstance(found, int) else list(found)
