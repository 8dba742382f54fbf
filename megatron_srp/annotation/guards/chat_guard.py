"""Guards that are chat models: the verdict is read in one forward pass, the categories are generated.

A prompt ends with the beginning of the answer ("Safety:"), and the probabilities of the few tokens that may
follow are the verdict (`verdict_tokens`). Only a text that is not safe costs more: the model then continues with the
categories. So instead of about ten tokens for every text, it generates a few tokens for few texts.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard, GuardOptions, GuardResult, StringArray, labels_of
from megatron_srp.annotation.engines import Engine, Prompts, load_engine
from megatron_srp.annotation.guards.context_prompts import ContextPromptBuilder, context_mode
from megatron_srp.annotation.guards.guard_spec import Answer, GuardSpec
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.prompts import PromptBuilder
from megatron_srp.annotation.guards.verdict_tokens import verdict_logprobs
from megatron_srp.annotation.guards.windows import Windows, join_windows
from megatron_srp.errors import UsageError
from megatron_srp.schema import SAFE, SafetyLabel, Verdict

_SHOWN = 80  # characters of a nonsense answer to quote


def load_chat_guard(path: Path, options: GuardOptions) -> "ChatGuard":
    """The guard that a YAML file describes, with its model loaded."""
    spec = GuardSpec.load(path)
    policy, options = take_policy(spec, options)
    model = options.model or spec.model
    tokenizer = GuardTokenizer(options.tokenizer or model)
    if options.context_words:
        options = replace(options, mode=_check_context(spec, options))
        builder: PromptBuilder = ContextPromptBuilder(spec, tokenizer, str(options.mode), policy)
    else:
        builder = PromptBuilder(spec, tokenizer, options.mode, options.user_turn, policy)
    check_threshold(options.threshold, options.generate_all)
    if not options.generate_all:
        _ = builder.verdict_tokens  # report a mistake before the model is loaded
    engine = load_engine(options.engine, model, options.tokenizer or model, **options.engine_options)
    return ChatGuard(builder, engine, options)


def _check_context(spec: GuardSpec, options: GuardOptions) -> str:
    """The mode that judges a text in its context; raises UsageError where there is none."""
    if options.context_words < 0:
        raise UsageError(f"--context-words {options.context_words}: pass a number of words, 0 for no context")
    if options.user_turn is not None:
        raise UsageError("--context-words takes the place of --guard-user-turn; drop one of the two")
    return context_mode(spec, options.mode)


def take_policy(spec: GuardSpec, options: GuardOptions) -> tuple[str | None, GuardOptions]:
    """The text of the option `policy`'s file, and the other options, which are the engine's.

    Raises:
        UsageError: when the guard needs a policy and has none, has no place for one, or the file cannot be read.
    """
    others = dict(options.engine_options)
    file = others.pop("policy", None)
    if not spec.needs_policy and file is None:
        return None, options
    if not spec.needs_policy:
        raise UsageError(f"--guard-option policy: guard {spec.name} has a policy of its own; leave it out")
    if file is None:
        raise UsageError(f"guard {spec.name} judges by your own policy: pass --guard-option policy=FILE")
    try:
        text = Path(str(file)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--guard-option policy={file}: {error}; pass a text file") from None
    if not text:
        raise UsageError(f"--guard-option policy={file}: the file is empty; write the rules there")
    return text, replace(options, engine_options=others)


def check_threshold(threshold: float | None, generate_all: bool = False) -> None:
    """Raises UsageError for a value that is not a probability, or for a guard that computes none to compare it with."""
    if threshold is not None and not 0 < threshold < 1:
        raise UsageError(f"--guard-threshold {threshold}: pass a probability between 0 and 1")
    if threshold is not None and generate_all:
        raise UsageError(
            "--guard-threshold needs probabilities, which --guard-generate-all does not compute; drop one of the two"
        )


@dataclass(frozen=True, slots=True)
class ChosenVerdicts:
    """N verdicts: `chosen` int64[N] indices into the spec's verdicts, `scores` float32[N] their probability
    among the verdicts, `mass` float32[N] the probability of all verdicts among all tokens."""

    chosen: np.ndarray
    scores: np.ndarray
    mass: np.ndarray


def choose_verdicts(logprobs: np.ndarray, verdicts: Sequence[Verdict], threshold: float | None) -> ChosenVerdicts:
    """Verdicts from log-probabilities float32[N, C] of the C `verdicts`.

    Without a threshold, the likeliest verdict. With one, Safe where P(not Safe) is below it, else the likeliest
    of the others."""
    probabilities = np.exp(logprobs)
    mass = probabilities.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = probabilities / mass[:, None]
    chosen = shares.argmax(1)
    if threshold is not None:
        safe = np.array([v is Verdict.SAFE for v in verdicts])
        harmful = shares[:, ~safe].sum(1) >= threshold
        of = np.where(safe[None, :] == harmful[:, None], -1.0, shares)
        chosen = of.argmax(1)
    scores = shares[np.arange(len(shares)), chosen]
    scores[np.isneginf(logprobs).any(1)] = nan  # the engine only knows what the model would write
    return ChosenVerdicts(chosen, scores, mass)


class ChatGuard(Guard):
    """A chat model as a guard.

    A text longer than the model's context is classified in windows, and its worst verdict counts; `incidents`
    counts such texts.
    """

    def __init__(self, builder: PromptBuilder, engine: Engine, options: GuardOptions | None = None) -> None:
        self.builder, self.engine, self.options = builder, engine, options or GuardOptions()
        self.spec, self.context_words = builder.spec, self.options.context_words
        self.name = self.spec.name
        self.revision = "-".join(part for part in (self.spec.revision, engine.revision) if part)
        self._verdicts = list(self.spec.verdicts.values())
        self._room = engine.max_length - self.spec.max_new_tokens

    @property
    def settings(self) -> dict[str, Any]:
        options, policy = self.options, self.builder.policy
        context = {"context_words": self.context_words} if self.context_words else {}
        return {
            "guard": self.name,
            "revision": self.revision,
            "model": Path(options.model or self.spec.model).name,
            "mode": options.mode or next(iter(self.spec.modes)),
            "user_turn": options.user_turn,
            "threshold": options.threshold,
            "generate_all": options.generate_all,
            **context,
        } | ({} if policy is None else {"policy": hashlib.sha256(policy.encode()).hexdigest()[:12]})

    @property
    def preferred_workers(self) -> int:
        return self.engine.callers

    def close(self) -> None:
        self.engine.close()

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return labels_of(self.results(texts))

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        return labels_of(self.results_array(texts))

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        return self.results_array(pa.array(texts, pa.large_string()))

    def writing(self) -> "ChatGuard":
        """The same guard, with the same model, but with answers generated in full."""
        return ChatGuard(self.builder, self.engine, replace(self.options, generate_all=True, threshold=None))

    def in_mode(self, mode: str) -> "ChatGuard":
        """The same guard with the same model; without a user turn, which belongs to one text only."""
        if mode not in self.spec.modes:
            return self
        builder = PromptBuilder(self.spec, self.builder.tokenizer, mode, None, self.builder.policy)
        return ChatGuard(builder, self.engine, replace(self.options, mode=mode, user_turn=None, context_words=0))

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        if self.options.generate_all:
            return super().harm_probabilities(texts)
        windows = self._windows(pa.array(texts, pa.large_string()))
        logprobs = verdict_logprobs(self.engine, windows.prompts, self.builder.verdict_tokens.tree)
        safe = np.array([v is Verdict.SAFE for v in self._verdicts])
        probabilities = np.exp(logprobs)
        harm = (probabilities[:, ~safe].sum(1) / probabilities.sum(1)).astype(np.float32)
        if windows.owners is None:
            return harm
        return np.maximum.reduceat(harm, np.flatnonzero(np.diff(windows.owners, prepend=-1)))

    def results_array(self, texts: StringArray) -> list[GuardResult]:
        array = texts.cast(pa.large_string()) if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
        return self._judged(self._windows(array))

    def results_in_context(self, texts: StringArray, contexts: Sequence[str]) -> list[GuardResult]:
        assert isinstance(self.builder, ContextPromptBuilder)
        array = pa.array(texts.to_pylist(), pa.large_string())
        prompts = self.builder.build_in_context(array, list(contexts), not self.options.generate_all)
        long = np.flatnonzero(np.diff(prompts.rests.offsets) + len(prompts.prefix) > self._room)
        if not len(long):
            return self._judged(Windows(prompts, None, ()))
        # Where both do not fit, the segment is what counts.
        self.incidents["segments whose context the model has no room for, judged without it"] += len(long)
        fits = np.setdiff1d(np.arange(len(array)), long)
        given = [*self._judged(Windows(prompts.take(fits), None, ())), *self.results_array(array.take(pa.array(long)))]
        return [given[i] for i in np.argsort(np.concatenate([fits, long])).tolist()]

    def _judged(self, windows: Windows) -> list[GuardResult]:
        results = self._generate(windows.prompts) if self.options.generate_all else self._one_pass(windows.prompts)
        if windows.owners is None:
            return results
        self.incidents["texts longer than the model's context, classified in windows"] += len(windows.divided)
        return join_windows(results, windows.owners)

    def _windows(self, texts: pa.LargeStringArray) -> Windows:
        answer = not self.options.generate_all
        return Windows.cut(texts, lambda pieces: self.builder.build(pieces, answer), self._room)

    def _one_pass(self, prompts: Prompts) -> list[GuardResult]:
        if not len(prompts):
            return []
        logprobs = verdict_logprobs(self.engine, prompts, self.builder.verdict_tokens.tree)
        given = choose_verdicts(logprobs, self._verdicts, self.options.threshold)
        fine = given.mass >= self.spec.min_mass  # False for NaN too
        harmful = np.array([v is not Verdict.SAFE for v in self._verdicts])[given.chosen]
        rows = np.flatnonzero(fine & harmful)
        labels = dict(zip(rows.tolist(), self._labels(prompts, rows, given.chosen[rows]), strict=True))
        results = []
        for i, (score, ok, mass) in enumerate(
            zip(given.scores.tolist(), fine.tolist(), given.mass.tolist(), strict=True)
        ):
            results.append(GuardResult(labels.get(i, SAFE), score) if ok else GuardResult(failure=_weak(mass)))
        return results

    def _labels(self, prompts: Prompts, rows: np.ndarray, chosen: np.ndarray) -> list[SafetyLabel]:
        """Labels of prompts that got these verdicts other than Safe: the model names the categories."""
        texts = list(self.spec.verdicts)
        if not len(rows) or not self.spec.categories:
            return [SafetyLabel(self._verdicts[v]) for v in chosen]
        led = self.builder.with_verdicts(prompts, rows, chosen)
        room = self.spec.max_new_tokens - self.builder.verdict_tokens.longest_lead
        written = self.engine.generate(led, max(room, 1), self.builder.line_ids)
        opening = [self.spec.answer + texts[v] + self.spec.category_lead for v in chosen]
        answers = [self.spec.read(o + self.builder.tokenizer.decode(w)) for o, w in zip(opening, written, strict=True)]
        return [self._label(self._verdicts[v], answer) for v, answer in zip(chosen, answers, strict=True)]

    def _generate(self, prompts: Prompts) -> list[GuardResult]:
        """Results from answers that the model generates in full."""
        if not len(prompts):
            return []
        written = self.engine.generate(prompts, self.spec.max_new_tokens, self.builder.stop_ids)
        results = []
        for text in map(self.builder.tokenizer.decode, written):
            answer = self.spec.read(text)
            failure = "" if answer.verdict else f"the answer has no verdict: {text[:_SHOWN]!r}"
            results.append(
                GuardResult(self._label(answer.verdict, answer), nan)
                if answer.verdict
                else GuardResult(failure=failure)
            )
        return results

    def _label(self, verdict: Verdict, answer: Answer) -> SafetyLabel:
        if answer.unknown:
            self.incidents["categories missing from the guard's description"] += len(answer.unknown)
        if verdict is not Verdict.SAFE and not answer.categories:
            self.incidents["verdicts other than Safe without a category"] += 1
        return SafetyLabel(verdict, answer.categories)


def _weak(mass: float) -> str:
    if np.isnan(mass):
        return "the engine gave no answer"
    return f"the answer begins with no verdict: all verdicts together have a probability of {mass:.2g}"
