"""Qwen3Guard-Stream as a guard: it reads a text once, without an instruction around it, and judges every token.

A segment is the user's turn or the assistant's, as the mode says, and a rule makes one verdict of its tokens':

    last    at the token that ends the turn, as its makers judge prompts
    worst   at the token with the highest probability of harm, as they judge an answer that is being written
    mean    the mean of all tokens' probabilities
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.base import Guard, GuardOptions, GuardResult, StringArray, labels_of
from megatron_srp.annotation.engines import Prompts
from megatron_srp.annotation.extensions import check_options
from megatron_srp.annotation.guards.chat_guard import check_threshold, choose_verdicts
from megatron_srp.annotation.guards.guard_spec import GuardSpec
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.prompts import PromptBuilder
from megatron_srp.annotation.guards.windows import Windows, join_windows
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.missing_packages import missing_packages_explained
from megatron_srp.schema import SafetyLabel, Verdict

NAME = "qwen3guard-stream"
RULES = ("last", "worst", "mean")
_RULE_OF = {"prompt": "last", "response": "worst"}
_ROLE_OF = {"prompt": "user", "response": "assistant"}
_OPTIONS = {"model", "tokenizer", "engine_options", "mode", "user_turn", "threshold"}


def load_stream_guard(options: GuardOptions) -> "StreamGuard":
    """The guard with its model loaded; raises UsageError."""
    if not _OPTIONS.issuperset(options.changed()):
        refused = replace(options, **{name: getattr(GuardOptions(), name) for name in _OPTIONS})
        raise UsageError(f"--guard {NAME} does not accept {', '.join(refused.changed_flags())}")
    check_threshold(options.threshold)
    spec, engine_options = (
        GuardSpec.load(Path(__file__).with_name("qwen3guard_stream.yaml")),
        {**options.engine_options},
    )
    rule = engine_options.pop("rule", None)
    if rule not in (None, *RULES):
        raise UsageError(f"--guard-option rule={rule}: {did_you_mean(str(rule), list(RULES))}")
    with missing_packages_explained(f"--guard {NAME}"):
        from megatron_srp.annotation.engines.hf_token_heads import TokenHeads
    check_options(TokenHeads, engine_options, f"--guard {NAME}", skip=1)
    model = options.model or spec.model
    tokenizer = GuardTokenizer(options.tokenizer or model)
    builder = PromptBuilder(spec, tokenizer, options.mode, options.user_turn)
    return StreamGuard(builder, TokenHeads(model, **engine_options), options, rule)


class StreamGuard(Guard):
    """Safe, Controversial or Unsafe, with the likeliest category.

    Args:
        heads: the model, with `levels`, `categories`, `max_length`, `revision` and `read`.
        rule: of `RULES`; by default the makers' for the mode.
    """

    name = NAME

    def __init__(self, builder: PromptBuilder, heads: Any, options: GuardOptions, rule: str | None = None) -> None:
        self.builder, self.heads, self.options = builder, heads, options
        self.mode = options.mode or next(iter(builder.spec.modes))
        self.rule, self._role = rule or _RULE_OF[self.mode], _ROLE_OF[self.mode]
        self.revision = f"{builder.spec.revision}-{heads.revision}"
        self._verdicts = [Verdict.from_name(name) for name in heads.levels[self._role]]

    @property
    def settings(self) -> dict[str, Any]:
        options = self.options
        return super().settings | {
            "model": Path(options.model or self.builder.spec.model).name,
            "mode": self.mode,
            "user_turn": options.user_turn,
            "threshold": options.threshold,
            "rule": self.rule,
        }

    def close(self) -> None:
        self.heads.close()

    def in_mode(self, mode: str) -> "StreamGuard":
        builder = PromptBuilder(self.builder.spec, self.builder.tokenizer, mode)
        return StreamGuard(builder, self.heads, replace(self.options, mode=mode, user_turn=None))

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return labels_of(self.results(texts))

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        return self.results_array(pa.array(texts, pa.large_string()))

    def results_array(self, texts: StringArray) -> list[GuardResult]:
        windows = self._windows(pa.array(texts.to_pylist(), pa.large_string()))
        results = self._judge(windows.prompts)
        return results if windows.owners is None else join_windows(results, windows.owners)

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        windows = self._windows(pa.array(texts, pa.large_string()))
        harm = 1 - self._risks(windows.prompts)[0][:, self._verdicts.index(Verdict.SAFE)]
        if windows.owners is None:
            return harm
        return np.maximum.reduceat(harm, np.flatnonzero(np.diff(windows.owners, prepend=-1)))

    def _windows(self, texts: pa.LargeStringArray) -> Windows:
        return Windows.cut(texts, lambda pieces: self.builder.build(pieces, answer=False), self.heads.max_length)

    def _judge(self, prompts: Prompts) -> list[GuardResult]:
        risks, categories = self._risks(prompts)
        with np.errstate(divide="ignore"):
            given = choose_verdicts(np.log(risks), self._verdicts, self.options.threshold)
        names = self.heads.categories[self._role]
        return [
            GuardResult(_label(self._verdicts[verdict], names[category]), score)
            for verdict, category, score in zip(
                given.chosen.tolist(), categories.argmax(1).tolist(), given.scores.tolist(), strict=True
            )
        ]

    def _risks(self, prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
        """float32[N, R] and float32[N, C]: each text's probabilities of risk levels and categories, by the rule."""
        own = [self._own(prompts.rests[i]) for i in range(len(prompts))]
        read = zip(own, self.heads.read(prompts, self._role), strict=True)
        found = [self._by_rule(risks[tokens], categories[tokens]) for tokens, (risks, categories) in read]
        sizes = (len(self._verdicts), len(self.heads.categories[self._role]))
        risks, categories = ([one[i] for one in found] for i in (0, 1))
        return np.array(risks, np.float32).reshape(-1, sizes[0]), np.array(categories, np.float32).reshape(-1, sizes[1])

    def _own(self, rest: np.ndarray) -> slice:
        """The tokens of a text and the one that ends its turn, without the template's around them."""
        head = self.builder.opening[: len(rest)]
        same = np.cumprod(rest[: len(head)] == head)  # the text's first characters may merge with it
        return slice(int(same.sum()), len(rest) - max(self.builder.ending - 1, 0))

    def _by_rule(self, risks: np.ndarray, categories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.rule == "mean":
            return risks.mean(0), categories.mean(0)
        at = -1 if self.rule == "last" else int(risks[:, self._verdicts.index(Verdict.SAFE)].argmin())
        return risks[at], categories[at]


def _label(verdict: Verdict, category: str) -> SafetyLabel:
    named = verdict is not Verdict.SAFE and category.lower() != "none"
    return SafetyLabel(verdict, (category,) if named else ())
