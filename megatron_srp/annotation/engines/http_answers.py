"""Reading the answers of `/v1/completions`, in the formats of different servers."""

import math
from typing import Any

import numpy as np

_NEVER = -9999.0  # stands for -inf, which JSON lacks
_LESS = 1e-3


def read_logprobs(choice: dict[str, Any], names: dict[str, int], count: int) -> list[float]:
    """Log-probabilities of the candidates from one choice.

    Args:
        names: what the server may call the candidates, and the index of each.
        count: number of candidates.

    Raises:
        ValueError: when they do not form a distribution.
    """
    row = [-np.inf] * count
    top = ((choice.get("logprobs") or {}).get("top_logprobs") or [{}])[0] or {}
    listed = {names[token]: float(value) for token, value in top.items() if token in names}
    if listed:
        unlisted = _unlisted([float(value) for value in top.values()], count - len(listed))
        return [max(listed.get(c, unlisted), _NEVER) for c in range(count)]
    if top:
        return [_NEVER] * count  # the model writes something else, and nothing says which verdict is likelier
    text = as_text(choice["text"])
    found = next((c for name, c in names.items() if name.strip() == text.strip()), None)
    if found is not None:
        row[found] = 0.0
        return row
    return [float("nan")] * count


def _unlisted(listed: list[float], count: int) -> float:
    """Upper bound on the probability of each of `count` candidates beyond the list: less than its last, since a tie
    would pick a verdict that the model did not choose, and at most what the list leaves for them together."""
    total = sum(math.exp(min(value, 1.0)) for value in listed)  # exp(1000) would overflow
    if not total < 1.01:
        raise ValueError(f"the probabilities of the first token come to {total:.3g}")
    left = max(1 - total, 1e-9) / max(count, 1)
    return min(min(listed) - _LESS, math.log(left))


def same_model(served: str, asked: str) -> bool:
    """Whether two names mean the same model; servers add a revision or a date (`name@main`)."""
    return str(served).startswith(asked)


def as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text is {type(value).__name__}")
    return value
