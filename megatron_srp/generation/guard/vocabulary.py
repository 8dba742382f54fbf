"""The text of each token, and which tokens end an answer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import TextTokenizer

# Half a surrogate pair: no text that is decoded from UTF-8 has one, so these cannot be forged by text.
OPEN_MARK, CLOSE_MARK = "\ud800", "\udc00"


@dataclass(frozen=True, slots=True)
class GuardVocabulary:
    """What a guard knows of a tokenizer.

    Attributes:
        pieces: bytes of text of each token; none for those without text.
        eos_ids: tokens that end an answer.
        marks: for special-token reflections, the characters that stand for their two tokens.
        form: how reflections are written, with `open` and `close` as the guard will see them.
    """

    pieces: Sequence[bytes]
    eos_ids: frozenset[int]
    marks: dict[int, str]
    form: ReflectionFormat

    @classmethod
    def of(cls, tokenizer: TextTokenizer, form: ReflectionFormat, eos_ids: Collection[int] = ()) -> "GuardVocabulary":
        """Of a tokenizer, with its own end-of-text token and `eos_ids`.

        Raises:
            UsageError: when `form` needs special tokens that the tokenizer does not have.
        """
        ends = frozenset(eos_ids) | ({tokenizer.eos_id} if tokenizer.eos_id is not None else frozenset())
        pieces = tokenizer.token_text()
        if not form.special_tokens:
            return cls(pieces, ends, {}, form)
        ids = [tokenizer.encode_inside(word) for word in (form.open, form.close)]
        if any(len(found) != 1 for found in ids):
            raise UsageError(
                f"--reflection-tokens special: the tokenizer {tokenizer.model} has no tokens {form.open} and "
                f"{form.close}; pass text, or the tokenizer that the shards were written with"
            )
        marks = dict(zip((found[0] for found in ids), (OPEN_MARK, CLOSE_MARK), strict=True))
        return cls(pieces, ends, marks, replace(form, open=OPEN_MARK, close=CLOSE_MARK))

    def piece(self, token: int) -> bytes:
        """The token's bytes; none for an id that only pads the model's vocabulary."""
        return self.pieces[token] if 0 <= token < len(self.pieces) else b""
