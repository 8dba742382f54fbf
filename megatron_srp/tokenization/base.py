"""The interface of all tokenizers, and the flat arrays they return."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from megatron_srp.errors import UsageError


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Tokens of N documents: `tokens` uint32[T], concatenated; `offsets` int64[N+1]."""

    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    @classmethod
    def from_lists(cls, ids: list[list[int]]) -> "TokenBatch":
        return cls.from_arrays([np.array(row, np.uint32) for row in ids])

    @classmethod
    def from_arrays(cls, rows: list[np.ndarray]) -> "TokenBatch":
        """Rows of one type, stored by the batch."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(np.concatenate(rows) if rows else np.empty(0, np.uint32), offsets)


class TextTokenizer(ABC):
    """A tokenizer, its vocabulary, and what the data plane needs to know about it.

    Attributes:
        type, model: as given by `--tokenizer-type` and `--tokenizer-model`.
        vocab_size: one more than the largest id.
        eos_id: the end-of-document id, or None where the tokenizer has none; `eos_text` is its name.
        eod_token: that name where it was chosen (`ending_documents_with`) and is not the tokenizer's own eos.
        fingerprint: equal for tokenizers that produce the same ids and have the same eos of their own.
        token_bytes: uint16[vocab_size], how many bytes of text each token stands for.
        extra_bytes: bytes by which the tokens of a document exceed its text (SentencePiece's
            dummy prefix counts as one).
        has_unicode_rules: whether its ids depend on the categories of characters, or on how they normalise.
    """

    type: str
    model: Path
    vocab_size: int
    eos_id: int | None
    eos_text: str | None
    eod_token: str | None = None
    fingerprint: str
    token_bytes: np.ndarray
    extra_bytes: int
    has_unicode_rules = False

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without tokens the tokenizer would add around it."""

    def encode_inside(self, text: str) -> list[int]:
        """The ids of `text` in the middle of a document, without a dummy prefix."""
        if not self.extra_bytes:
            return self.encode(text)
        if text.startswith(" ") and text != " ":  # the prefix is such a space, but of no text
            return self.encode(text[1:])
        ids = self.encode(f"\n{text}")  # no piece spans a line break and a letter
        widths = np.cumsum(self.token_bytes[ids])
        return ids[int(np.searchsorted(widths, self.extra_bytes, side="right")) + 1 :]

    def encode_lists_inside(self, texts: list[str]) -> list[list[int]]:
        """`encode_inside` of each text."""
        return [self.encode_inside(text) for text in texts] if self.extra_bytes else self.encode_lists(texts)

    @abstractmethod
    def encode_lists(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""

    @abstractmethod
    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """`encode(text)` and the byte of the text at which each token starts, never descending.

        For documents whose tokens do not add up to their bytes (a normalising tokenizer)."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """The text of `ids`; `decode(encode(text)) == text` unless the tokenizer normalises."""

    @abstractmethod
    def token_id(self, name: str) -> int | None:
        """The id of the token of that name; None where there is no such token."""

    @abstractmethod
    def token_name(self, token: int) -> str | None:
        """The name of the token of that id; None where there is no such token."""

    def text_can_be(self, name: str) -> bool:
        """Whether the characters of `name` in a text may be encoded as the token of that name."""
        token = self.token_id(name)
        return any(token in self.encode(text) for text in (name, f" {name} ", f"a{name}a"))

    @abstractmethod
    def token_text(self) -> list[bytes]:
        """The bytes of text that each of the vocab_size tokens stands for; none for special tokens. Those
        of a document's tokens, concatenated, are its text (after a dummy prefix, if any).

        Raises:
            UsageError: when this tokenizer's tokens do not stand for bytes.
        """

    @abstractmethod
    def fast_json(self) -> str | None:
        """This tokenizer as a tokenizer.json that gigatoken can run, without its special tokens;
        None where it has no such form."""

    @property
    def splits_digits(self) -> bool:
        """Whether `fast_json` splits off only ASCII digits, but the tokenizer all numerals."""
        return False

    def unsettled_ids(self) -> set[int]:
        """Ids with which `fast_json` marks text that only the tokenizer itself is certain to encode exactly."""
        return set()

    @abstractmethod
    def reading_as_text(self, names: Collection[str]) -> Self:
        """This tokenizer without the added tokens `names`, so that a text's characters never become them."""

    def ending_documents_with(self, token: str | None) -> Self:
        """This tokenizer with `token` at the end of documents and after verdicts instead of its own eos; None keeps it.

        Raises:
            UsageError: when it has no such token.
        """
        found = self.token_id(token) if token is not None else self.eos_id
        if found is None and token is not None:
            raise UsageError(f"--eod-token {token!r}: {self.model} has no such token; pass one of its tokens")
        if found == self.eos_id or token is None:
            return self
        other = self.reading_as_text([token])  # no page may write it
        other.eos_id, other.eos_text, other.eod_token = found, token, token
        return other

    @property
    def identity(self) -> dict[str, str]:
        """What determines its ids and the end of documents, as JSON."""
        chosen = {"eod_token": self.eod_token} if self.eod_token is not None else {}
        return {"type": self.type, "fingerprint": self.fingerprint} | chosen

    @abstractmethod
    def save_with_added_tokens(self, tokens: list[str], folder: Path) -> "TextTokenizer":
        """Write this tokenizer extended by `tokens`, which it encodes as such, at the next free ids, and load it.
        A token that it has already keeps its id."""

    def require_eos(self) -> int:
        if self.eos_id is None:
            raise UsageError(
                f"the tokenizer {self.model} has no end-of-text token, which reflections and --append-eod "
                "need; choose one with --eod-token, or set eos_token in its tokenizer_config.json"
            )
        return self.eos_id
