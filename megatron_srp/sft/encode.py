"""Conversations as token ids with a loss mask, made together, so that the two cannot diverge.

The loss covers responses, their reflections, the stop after a verdict and what ends a response. It leaves out
prompts, what the template adds, earlier answers, and the harmful beginning of a recovery.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from megatron_srp.data.align import align_document
from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import Conversation, Kind, Part
from megatron_srp.sft.template import ChatTemplate, Frame
from megatron_srp.tokenization import TextTokenizer


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """K tokens: `ids` int64[K], and `mask` uint8[K], 1 where a token counts in the loss (as a label)."""

    ids: np.ndarray
    mask: np.ndarray


@dataclass(slots=True)
class _Tokens:
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], trained: bool) -> None:
        self.ids += ids
        self.mask += [int(trained)] * len(ids)


class ConversationEncoder:
    """Encodes conversations with a template; reflections get the ids that they have in pretraining.

    Raises:
        UsageError: when the tokenizer lacks the special tokens that `form` needs.
    """

    def __init__(self, template: ChatTemplate, form: ReflectionFormat) -> None:
        self.template, self.form, self.tokenizer = template, form, template.tokenizer
        self._eos = self.tokenizer.require_eos()
        for token in (form.open, form.close) if form.special_tokens else ():
            if len(self.tokenizer.encode_inside(token)) != 1:
                raise UsageError(
                    f"--reflection-tokens special: {token} is not a token of {self.tokenizer.model}; pass the "
                    "tokenizer of the pretraining shards (PREFIX_tokenizer), or --reflection-tokens text"
                )

    def __call__(self, conversation: Conversation) -> EncodedConversation:
        tokens = _Tokens()
        responses = [self._trimmed(turn.parts) for turn in conversation.turns if turn.role == "assistant"]
        for parts, frame in zip(responses, self.template.frames(conversation.turns), strict=True):
            tokens.add(frame.before, trained=False)
            self._response(tokens, parts, frame)
        return EncodedConversation(np.array(tokens.ids, np.int64), np.array(tokens.mask, np.uint8))

    def _trimmed(self, parts: Sequence[Part]) -> list[Part]:
        """A response with the white space at its ends that the template leaves there in later turns."""
        trimmed, last = list(parts), len(parts) - 1
        for at in {0, last}:
            if parts[at].kind is Kind.TEXT:
                before, after = "x" * (at > 0), "x" * (at < last)  # stand for its neighbours
                text = self.template.trim(f"{before}{parts[at].text}{after}")
                trimmed[at] = replace(parts[at], text=text[len(before) : len(text) - len(after)])
        return [part for part in trimmed if part.text or part.kind is not Kind.TEXT]

    def _response(self, tokens: _Tokens, parts: Sequence[Part], frame: Frame) -> None:
        if not parts:  # an earlier answer of which nothing was shown
            tokens.add(frame.end, trained=False)
            return
        first_is_text = parts[0].kind is Kind.TEXT
        texts = iter(self._texts(parts, spaced=frame.spaced and first_is_text))
        for part in parts:
            if part.kind is Kind.TEXT:
                tokens.add(next(texts), part.trained)
            elif part.kind is Kind.REFLECTION:
                label = self.form.parse(part.text)
                assert label is not None, part.text
                tokens.add(self.form.encode(label, self.tokenizer, stop=False), part.trained)
            else:
                tokens.add([self._eos], part.trained)
        # After a stop the response has ended already; a second one would teach the model to end an empty text.
        if not (parts[-1].kind is Kind.STOP and frame.end == [self._eos]):
            tokens.add(frame.end, trained=any(part.trained for part in parts))

    def _texts(self, parts: Sequence[Part], spaced: bool) -> list[list[int]]:
        """Ids of the text parts, tokenized as one text: a space precedes it, unless there is one."""
        texts = [part.text for part in parts if part.kind is Kind.TEXT]
        if texts and not (spaced or texts[0][0].isspace()):
            texts[0] = f" {texts[0]}"
        return encode_pieces(texts, self.tokenizer)


def encode_pieces(pieces: Sequence[str], tokenizer: TextTokenizer) -> list[list[int]]:
    """The ids of "".join(pieces) in the middle of a document, cut where the pieces meet.

    A token that spans a cut stays with the piece it began in, as in pretraining (`data.align`).
    """
    text = "".join(pieces)
    if not text:
        return [[] for _ in pieces]
    ends = list(accumulate(len(piece.encode()) for piece in pieces))
    ids = tokenizer.encode_inside(text)
    widths = tokenizer.token_bytes[ids].tolist()
    if sum(widths) == ends[-1]:
        cuts = align_document(ends, widths)
    else:  # a tokenizer that changes the text
        ids, starts = tokenizer.encode_with_starts(text)
        cuts = [*(int(np.searchsorted(starts, end)) for end in ends[:-1]), len(ids)]
    return [ids[begin:end] for begin, end in zip([0, *cuts], cuts, strict=False)]
