"""The tokenizer that a model is trained with, and what a page must not be able to write with it."""

from pathlib import Path
from typing import Any

from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import TextTokenizer


def training_tokenizer(tokenizer: TextTokenizer, form: ReflectionFormat, folder: Path) -> TextTokenizer:
    """What reflections are encoded and a model is trained with: `tokenizer` itself, or, in `folder`, that
    one with the tokens that `form` adds."""
    return tokenizer.save_with_added_tokens([form.open, form.close], folder) if form.special_tokens else tokenizer


def refuse_forgeable(tokenizer: TextTokenizer, form: ReflectionFormat | None, shards: bool = False) -> None:
    """Raises UsageError where a page could write what only we may write: end-of-text, or the tokens of `form`.

    Args:
        shards: the pages are shards of someone else, who may have read any name of a token as that token.
    """
    if not shards and tokenizer.text_can_be(tokenizer.eos_text or ""):
        raise UsageError(
            f"the tokenizer {tokenizer.model} reads {tokenizer.eos_text} in a text as its end-of-text token, so that "
            'any page could end a document; make it an added token with "special": true in tokenizer.json'
        )
    for mark in (form.open, form.close) if form and form.special_tokens else ():
        if tokenizer.token_id(mark) is not None if shards else tokenizer.text_can_be(mark):
            raise UsageError(
                f"--reflection-tokens special: {mark} is a token of {tokenizer.model} already, and any page that "
                f"contains it could pass for a reflection; give --reflection-tokens text"
            )


def describe_tokenizer(tokenizer: TextTokenizer, model: Path) -> dict[str, Any]:
    """As a manifest names it; `model` is where it will be."""
    return {
        "type": tokenizer.type,
        "model": str(model.resolve()),
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "fingerprint": tokenizer.fingerprint,
    }
