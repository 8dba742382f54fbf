"""The tokenizer that a model is trained with, and the tokens that a page must not be able to write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_srp.errors import UsageError
from megatron_srp.tokenization import TextTokenizer, load_tokenizer


def training_tokenizer(tokenizer: TextTokenizer, marks: Sequence[str], folder: Path) -> TextTokenizer:
    """The tokenizer that reflections are encoded and a model is trained with: `tokenizer` itself, or, written to
    `folder`, that one with `marks`, the tokens that the policy adds."""
    return tokenizer.save_with_added_tokens([*marks], folder) if marks else tokenizer


def refuse_forgeable(tokenizer: TextTokenizer, marks: Sequence[str], shards: bool = False) -> None:
    """Raises UsageError where a page could write reserved tokens: end-of-text, or `marks`.

    Args:
        shards: the pages come from existing shards, in which a token's name may have been encoded as that token.
    """
    if not shards and tokenizer.text_can_be(tokenizer.eos_text or ""):
        raise UsageError(
            f"the tokenizer {tokenizer.model} reads {tokenizer.eos_text} in a text as its end-of-text token, so "
            'any page could end a document; make it an added token with "special": true in tokenizer.json'
        )
    for mark in marks:
        if tokenizer.token_id(mark) is not None if shards else tokenizer.text_can_be(mark):
            raise UsageError(
                f"--reflection-tokens special: {mark} is a token of {tokenizer.model} already, and any page that "
                f"contains it could pass for a reflection; pass --reflection-tokens text"
            )


def describe_tokenizer(tokenizer: TextTokenizer, model: Path) -> dict[str, Any]:
    """The tokenizer's record in a manifest; `model` is where it will be."""
    return {
        "type": tokenizer.type,
        "model": str(model.resolve()),
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "eod_token": tokenizer.eos_text,
        "fingerprint": tokenizer.fingerprint,
    }


def moved_tokenizer(folder: Path, model: Path) -> Path:
    """Where a manifest's tokenizer is now; one that was written next to shards moves with them.

    Args:
        folder: of the manifest.
        model: what it records.
    """
    for place in (model, *model.parents):
        beside = folder / place.name
        if place.name.endswith("_tokenizer") and beside.exists() and not model.exists():
            return beside / model.relative_to(place)
    return model


def recorded_tokenizer(record: dict[str, Any], model: str | Path | None = None) -> TextTokenizer:
    """The tokenizer of a `describe_tokenizer`, from `model` if it was moved; raises UsageError for another one."""
    tokenizer = load_tokenizer(record["type"], model or record["model"])
    if tokenizer.fingerprint != record["fingerprint"]:
        raise UsageError(f"{tokenizer.model} is not the tokenizer of the shard, which is {record['model']}")
    return tokenizer.ending_documents_with(record.get("eod_token"))
