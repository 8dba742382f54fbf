"""Scored prompts, in the form of OpenAI's completions with `echo` and `logprobs`."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.guard.policy import TokenScore


def scored_choice(
    model: PromptedModel, tokens: Sequence[int], scores: Sequence[TokenScore | None], top: int, generated: int
) -> dict[str, Any]:
    """`text` and `logprobs` of a choice.

    Args:
        top: how many of the most likely tokens are named.
        generated: entries at the end for tokens that clients expect to be generated; they are empty.
    """
    pieces = [model.decode([token]) for token in tokens]
    offsets = [0, *accumulate(map(len, pieces))]
    empty = [None] * generated
    logprobs = {
        "tokens": [*pieces, *([""] * generated)],
        "token_logprobs": [*(score.logprob if score else None for score in scores), *empty],
        "top_logprobs": [*(_top(model, score, top) for score in scores), *empty],
        "text_offset": [*offsets[: len(pieces)], *([offsets[-1]] * generated)],
    }
    return {"text": model.decode(tokens), "logprobs": logprobs}


def _top(model: PromptedModel, score: TokenScore | None, top: int) -> dict[str, float] | None:
    return {model.decode([token]): logprob for token, logprob in score.top[:top]} if score else None
