"""A conversation of a shard in readable form, with the learned tokens marked."""

from itertools import groupby

import numpy as np

from megatron_srp.tokenization import TextTokenizer

LEARNED_IN_COLOR = ("\033[32m", "\033[0m")  # green
LEARNED_IN_BRACKETS = ("⟦", "⟧")


def show_sample(ids: np.ndarray, mask: np.ndarray, tokenizer: TextTokenizer, color: bool) -> str:
    """The text of K tokens, with the learned ones (`mask` [K] is 1) green, or in brackets."""
    begin, end = LEARNED_IN_COLOR if color else LEARNED_IN_BRACKETS
    pieces = []
    for learned, run in groupby(range(len(ids)), key=lambda i: bool(mask[i])):
        text = tokenizer.decode([int(ids[i]) for i in run])
        pieces.append(f"{begin}{text}{end}" if learned else text)
    return "".join(pieces)
