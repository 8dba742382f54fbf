"""A conversation of a shard in readable form, with the learned tokens marked."""

from itertools import groupby
from typing import Any

import numpy as np

from megatron_srp.errors import UsageError
from megatron_srp.tokenization import TextTokenizer, load_tokenizer

LEARNED_IN_COLOR = ("\033[32m", "\033[0m")  # green
LEARNED_IN_BRACKETS = ("⟦", "⟧")


def sample_tokenizer(manifest: dict[str, Any], model: str | None = None) -> TextTokenizer:
    """The tokenizer that a shard was made with, from `model` if it was moved; raises UsageError for another."""
    made_with = manifest["tokenizer"]
    tokenizer = load_tokenizer(made_with["type"], model or made_with["model"])
    if tokenizer.fingerprint != made_with["fingerprint"]:
        raise UsageError(f"{tokenizer.model} is not the tokenizer of the shard, which is {made_with['model']}")
    return tokenizer


def show_sample(ids: np.ndarray, mask: np.ndarray, tokenizer: TextTokenizer, color: bool) -> str:
    """The text of K tokens, with the learned ones (`mask` [K] is 1) green, or in brackets."""
    begin, end = LEARNED_IN_COLOR if color else LEARNED_IN_BRACKETS
    pieces = []
    for learned, run in groupby(range(len(ids)), key=lambda i: bool(mask[i])):
        text = tokenizer.decode([int(ids[i]) for i in run])
        pieces.append(f"{begin}{text}{end}" if learned else text)
    return "".join(pieces)
