"""Prompts of a chat guard as token ids, thousands at a time.

The tokenizer's own chat template is rendered once, around a sentinel; what precedes the sentinel is
the prefix of every prompt, what follows it the suffix. The text itself is encoded separately, as plain
text: no name of a special token in it becomes that token, so no document can end its turn, forge an answer
or otherwise change the structure of the prompt.

A tokenizer merges across the places where text meets template ("USER: " and "The" give " The", "." and
"\\n\\n" give ".\\n\\n"). So a few characters of the template are encoded with the text, as many as necessary:
`_Seams` finds them when the builder is made.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from megatron_srp.annotation.engines import Prompts
from megatron_srp.annotation.guards.guard_spec import GuardSpec
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.verdict_tokens import VerdictTokens
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.errors import UsageError
from megatron_srp.tokenization.base import TokenBatch

_SENTINEL = "\ue000segment\ue000"
WHITE = "".join(c for c in map(chr, range(0x3001)) if c.isspace())  # what str.strip, Jinja's trim, removes
# Texts that begin and end in all the ways that tokenizers treat differently.
_EDGES = (
    "a",
    "The",
    " the",
    "9",
    ".",
    " ",
    "!)",
    '"',
    "'s",
    "-",
    "\n",
    " \n",
    "\n\n",
    "\t",
    "é",
    "日",
    "½",
    "ß.",
    "\u00a0",
    "…",
    "<",
    "  x",
)
_PROBES = tuple(f"{a} some text, and{b}" for a, b in zip(_EDGES, _EDGES[::-1], strict=True)) + _EDGES


@dataclass(frozen=True, slots=True)
class Frame:
    """A rendered template cut at the text: what stands `before` and `after` it, and whether the template
    strips white space from the text's left and right end."""

    before: str
    after: str
    strip_left: bool
    strip_right: bool

    @classmethod
    def render(
        cls,
        spec: GuardSpec,
        tokenizer: GuardTokenizer,
        mode: str | None,
        user_turn: str | None,
        policy: str | None = None,
    ) -> "Frame":
        def rendered(text: str) -> str:
            turns = spec.conversation(mode, user_turn, text)
            shown = tokenizer.render(turns, spec.template, spec.generation_prompt, policy)
            if _SENTINEL in shown:
                return shown
            # The template of a model that also reads images, as Llama Guard 4, shows parts of a content only.
            parts = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
            return tokenizer.render(parts, spec.template, spec.generation_prompt, policy)

        before, *after = rendered(_SENTINEL).split(_SENTINEL)
        if len(after) != 1:
            raise UsageError(f"the chat template of {tokenizer.model} shows the text {len(after)} times, not once")
        padded = rendered(f" \n{_SENTINEL}\n ").partition(_SENTINEL)
        return cls(before, after[0], padded[0] == before, padded[2] == after[0])


class PromptBuilder:
    """Makes the prompts of one guard in one mode.

    Attributes:
        prefix: int32[P], ids that begin every prompt.
        stop_ids: tokens that end an answer.
        line_ids: tokens that end the categories.
    """

    def __init__(
        self,
        spec: GuardSpec,
        tokenizer: GuardTokenizer,
        mode: str | None = None,
        user_turn: str | None = None,
        policy: str | None = None,
    ):
        self.spec, self.tokenizer, self.policy = spec, tokenizer, policy
        self.frame = frame = Frame.render(spec, tokenizer, mode, user_turn, policy)
        self._head, self._tail = find_seams(tokenizer, frame)
        self.prefix = int32_ids(tokenizer.encode_template(frame.before.removesuffix(self._head)))
        self._rest = frame.after.removeprefix(self._tail)
        self._open = int32_ids(tokenizer.encode_template(self._rest))
        self.stop_ids = tokenizer.end_ids
        self.line_ids = tokenizer.line_break_ids if spec.category_lead.strip("\n") else tokenizer.end_ids

    @cached_property
    def verdict_tokens(self) -> VerdictTokens:
        """The tokens for reading verdicts; generated answers do not need them.

        Raises:
            UsageError: when the tokens do not tell the verdicts apart.
        """
        return VerdictTokens.of(self.spec, self.tokenizer, self._rest)

    @cached_property
    def opening(self) -> np.ndarray:
        """int32 ids of the piece of the template that is encoded with a text's beginning."""
        return int32_ids(self.tokenizer.encode_plain(self._head))

    @property
    def ending(self) -> int:
        """How many tokens of the template follow a text."""
        return len(self._open)

    def build(self, texts: pa.LargeStringArray, answer: bool = True) -> Prompts:
        """A prompt for each text, with or without `spec.answer` and the common beginning of all verdicts."""
        if self.frame.strip_left:
            texts = pc.utf8_ltrim(texts, WHITE)
        if self.frame.strip_right:
            texts = pc.utf8_rtrim(texts, WHITE)
        if self._head or self._tail:
            ends = (pa.scalar(part, pa.large_string()) for part in (self._head, self._tail, ""))
            texts = pc.binary_join_element_wise(next(ends), texts, *ends)
        middle = self.tokenizer.encode_texts(TextBatch.from_arrow(texts))
        return Prompts(self.prefix, middle).followed_by(self.verdict_tokens.asked if answer else self._open)

    def with_verdicts(self, prompts: Prompts, rows: np.ndarray, verdicts: np.ndarray) -> Prompts:
        """The prompts `rows`, each continued by its verdict (an index into `spec.verdicts`) up to its categories."""
        leads = self.verdict_tokens.leads
        rests = [np.concatenate([prompts.rests[r], leads[v]]) for r, v in zip(rows, verdicts, strict=True)]
        return Prompts(prompts.prefix, TokenBatch.from_arrays(rests))


def find_seams(tokenizer: GuardTokenizer, frame: Frame) -> tuple[str, str]:
    """The shortest end of `before` and beginning of `after` that must be encoded with the text, so that the
    ids equal those of the whole prompt; raises UsageError where there are none."""
    begin, end = tokenizer.plain_end(frame.before), tokenizer.plain_begin(frame.after)
    run, rest = frame.before[begin:], frame.after[:end]
    whole = [tokenizer.encode_plain(run + probe + rest) for probe in _PROBES]

    def fits(head: str, tail: str) -> bool:
        before = tokenizer.encode_plain(run.removesuffix(head))
        after = tokenizer.encode_plain(rest.removeprefix(tail))
        pieces = (tokenizer.encode_plain(head + probe + tail) for probe in _PROBES)
        return all(before + piece + after == ids for piece, ids in zip(pieces, whole, strict=True))

    head = next((run[i:] for i in reversed(range(len(run) + 1)) if fits(run[i:], rest)), None)
    tail = next((rest[:i] for i in range(len(rest) + 1) if head is not None and fits(head, rest[:i])), None)
    sound = all(
        tokenizer.encode_template(frame.before + probe + frame.after)
        == tokenizer.encode_template(frame.before[:begin]) + ids + tokenizer.encode_template(frame.after[end:])
        for probe, ids in zip(_PROBES, whole, strict=True)
    )
    if head is None or tail is None or not sound:
        raise UsageError(
            f"the tokenizer {tokenizer.model} encodes a text in the middle of a prompt differently than by itself "
            "(a SentencePiece dummy prefix, say), which chat guards do not support here; use --guard-engine http and "
            "a server that applies the template"
        )
    return head, tail


def int32_ids(ids: Any) -> np.ndarray:
    """The ids as an array."""
    return np.array(ids, np.int32)
