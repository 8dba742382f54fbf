"""Tokenizers as the data plane uses them: exact ids, their widths in bytes, and a fingerprint.

    tokenizer = load_tokenizer("HuggingFaceTokenizer", "path/to/folder")
    tokenizer.encode("a text")                      # the reference's ids
    FastEncoder(tokenizer).encode_batch(batch)      # the same ids, about fifty times faster

Names of types are Megatron's `--tokenizer-type`. Text is text: a document that contains
`<|endoftext|>` or another special token's name gets the ids of those characters, never the special
token itself, or any page of the web could end a document or forge a stop signal.
"""

from pathlib import Path

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.model_description import FILE, ModelDescription
from megatron_srp.tokenization.base import TextTokenizer, TokenBatch

SENTENCEPIECE_TYPES = ("SentencePieceTokenizer", "GPTSentencePieceTokenizer", "Llama2Tokenizer")
TYPES = ("HuggingFaceTokenizer", *SENTENCEPIECE_TYPES)

__all__ = [
    "TYPES",
    "TextTokenizer",
    "TokenBatch",
    "described_eod_token",
    "load_tokenizer",
    "tokenizer_fingerprint",
]


def load_tokenizer(tokenizer_type: str, tokenizer_model: str | Path, eod_token: str | None = None) -> TextTokenizer:
    """The tokenizer that Megatron would build from `--tokenizer-type` and `--tokenizer-model`.

        >>> from megatron_srp import load_tokenizer
        >>> tokenizer = load_tokenizer("HuggingFaceTokenizer", "tokenizer")
        >>> tokenizer.decode(tokenizer.encode("A river <|endoftext|>"))
        'A river <|endoftext|>'

    Args:
        eod_token: the token that ends documents. By default that of the model in whose folder the tokenizer is, as
            `srp export` describes it, else the tokenizer's own eos.

    Raises:
        UsageError: for an unknown type or token, or a model that does not exist or cannot be read.
        InputError: when the model's description is damaged.
    """
    if tokenizer_type in SENTENCEPIECE_TYPES:
        from megatron_srp.tokenization.sentencepiece import SentencePieceTextTokenizer

        return SentencePieceTextTokenizer(tokenizer_type, tokenizer_model).ending_documents_with(eod_token)
    if tokenizer_type == "HuggingFaceTokenizer":
        from megatron_srp.tokenization.huggingface import HuggingFaceTextTokenizer

        tokenizer = HuggingFaceTextTokenizer(tokenizer_type, tokenizer_model)
        return tokenizer.ending_documents_with(eod_token or described_eod_token(tokenizer))
    raise UsageError(
        f"--tokenizer-type {tokenizer_type!r} is not supported; {did_you_mean(tokenizer_type, list(TYPES))}"
    )


def described_eod_token(tokenizer: TextTokenizer) -> str | None:
    """The token that ended the documents of the model in the tokenizer's folder; None where nothing says so."""
    path = tokenizer.model / FILE
    eod_id = ModelDescription.read(path).eod_id if path.is_file() else None
    return tokenizer.token_name(eod_id) if eod_id is not None else None


def tokenizer_fingerprint(tokenizer_type: str, tokenizer_model: str | Path) -> str:
    """A hash that is equal for two tokenizers with the same ids and the same eos."""
    return load_tokenizer(tokenizer_type, tokenizer_model).fingerprint
