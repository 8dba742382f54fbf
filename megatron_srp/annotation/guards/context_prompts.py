"""Prompts that show a guard the text before a segment, of which it judges the segment alone.

The text before fills the place of the user's turn in the guard's mode for responses: that the model judges only the
turn after it is what its makers trained it for. At the beginning of a document the user's turn is empty.
"""

import pyarrow as pa

from megatron_srp.annotation.engines import Prompts
from megatron_srp.annotation.guards.guard_spec import GuardSpec
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.prompts import WHITE, Frame, PromptBuilder, find_seams, int32_ids
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.errors import UsageError
from megatron_srp.tokenization.base import TokenBatch

_CONTEXT = "\ue000context\ue000"


def context_mode(spec: GuardSpec, mode: str | None) -> str:
    """The mode that judges a text after the user's turn; raises UsageError where the guard, or `mode`, has none."""
    having = [name for name, turns in spec.modes.items() if any("{user}" in turn["content"] for turn in turns)]
    if not having:
        raise UsageError(f"--context-words: guard {spec.name} judges whole prompts, with no turn before; leave it out")
    if mode is not None and mode not in having:
        raise UsageError(
            f"--context-words: in mode {mode!r} guard {spec.name} would judge the context too; pass --guard-mode "
            f"{having[0]}, or no mode"
        )
    return mode or having[0]


class ContextPromptBuilder(PromptBuilder):
    """Makes the prompts of one guard for segments and the text before them."""

    def __init__(self, spec: GuardSpec, tokenizer: GuardTokenizer, mode: str, policy: str | None = None) -> None:
        super().__init__(spec, tokenizer, mode, _CONTEXT, policy)
        before, *between = self.frame.before.split(_CONTEXT)
        if len(between) != 1:
            raise UsageError(f"the chat template of {tokenizer.model} shows the user's turn {len(between)} times")
        self._between = between[0]
        # The seams at the context's beginning; those at the segment's end are known already.
        self._head = find_seams(tokenizer, Frame(before, f"{self._between}x{self.frame.after}", False, False))[0]
        self.prefix = int32_ids(tokenizer.encode_template(before.removesuffix(self._head)))

    def build_in_context(self, texts: pa.LargeStringArray, contexts: list[str], answer: bool = True) -> Prompts:
        """A prompt for each text after its context, as `build` makes them."""
        # An added token ends the run of plain text, in which alone a tokenizer merges.
        begin, end = self.tokenizer.plain_begin(self._between), self.tokenizer.plain_end(self._between)
        pairs = [
            (context.strip(), self._stripped(text)) for context, text in zip(contexts, texts.to_pylist(), strict=True)
        ]
        if not end:
            runs = [self._head + context + self._between + text + self._tail for context, text in pairs]
            rests = self.tokenizer.encode_texts(TextBatch.from_texts(runs))
        else:
            first = [self._head + context + self._between[:begin] for context, _ in pairs]
            last = [self._between[end:] + text + self._tail for _, text in pairs]
            rests = self._joined(first, self._between[begin:end], last)
        return Prompts(self.prefix, rests).followed_by(self.verdict_tokens.asked if answer else self._open)

    def build(self, texts: pa.LargeStringArray, answer: bool = True) -> Prompts:
        return self.build_in_context(texts, [""] * len(texts), answer)

    def _stripped(self, text: str) -> str:
        text = text.lstrip(WHITE) if self.frame.strip_left else text
        return text.rstrip(WHITE) if self.frame.strip_right else text

    def _joined(self, first: list[str], markup: str, last: list[str]) -> TokenBatch:
        ids = self.tokenizer.encode_template(markup)
        left, right = (self.tokenizer.encode_texts(TextBatch.from_texts(texts)) for texts in (first, last))
        return TokenBatch.from_arrays(
            [int32_ids([*left[i].tolist(), *ids, *right[i].tolist()]) for i in range(len(first))]
        )
