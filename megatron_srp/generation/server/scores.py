"""How likely tokens are: those of prompts, as OpenAI's completions have it with `echo` and `logprobs`, and those of
answers, as far as they are shown."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.guard.policy import Generation, ShownScore, TokenScore

Piece = Callable[[int], bytes]  # of a token, its bytes


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


def answer_logprobs(
    piece: Piece, chat: bool, alternatives: int | None
) -> Callable[[Generation, int], dict[str, Any] | None]:
    """What makes `logprobs` of a choice, out of its answer and how many characters of it are shown.

    Args:
        alternatives: how many other tokens are named; None where no probabilities are wanted.
    """
    if alternatives is None:
        return lambda generation, length: None
    form = _of_chat if chat else _of_text

    def logprobs(generation: Generation, length: int) -> dict[str, Any]:
        return form(piece, [one for one in generation.logprobs if one.end <= length], alternatives)

    return logprobs


def _of_chat(piece: Piece, shown: Sequence[ShownScore], alternatives: int) -> dict[str, Any]:
    def named(token: int, logprob: float) -> dict[str, Any]:
        return {"token": _text(piece, token), "bytes": list(piece(token)), "logprob": logprob}

    content = [
        named(one.token, one.score.logprob) | {"top_logprobs": [named(*top) for top in one.score.top[:alternatives]]}
        for one in shown
    ]
    return {"content": content, "refusal": None}


def _of_text(piece: Piece, shown: Sequence[ShownScore], alternatives: int) -> dict[str, Any]:
    tops = [{_text(piece, token): logprob for token, logprob in one.score.top[:alternatives]} for one in shown]
    return {
        "tokens": [_text(piece, one.token) for one in shown],
        "token_logprobs": [one.score.logprob for one in shown],
        "top_logprobs": tops if alternatives else None,
        "text_offset": [one.start for one in shown],
    }


def _text(piece: Piece, token: int) -> str:
    return piece(token).decode(errors="replace")


def _top(model: PromptedModel, score: TokenScore | None, top: int) -> dict[str, float] | None:
    return {model.decode([token]): logprob for token, logprob in score.top[:top]} if score else None
