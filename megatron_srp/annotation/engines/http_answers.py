"""What the answers of `/v1/completions` say of a prompt, in the ways of different servers."""

import math
from typing import Any

import numpy as np

_NEVER = -9999.0  # a log-probability that JSON has, as -inf is none
_LESS = 1e-3


def read_logprobs(choice: dict[str, Any], names: dict[str, int], count: int) -> list[float]:
    """Log-probabilities of the candidates from one choice.

    Args:
        names: how the server may call the candidates, and which each is.
        count: of candidates.

    Raises:
        ValueError: when they are those of no distribution.
    """
    row = [-np.inf] * count
    top = ((choice.get("logprobs") or {}).get("top_logprobs") or [{}])[0] or {}
    listed = {names[token]: float(value) for token, value in top.items() if token in names}
    if listed:
        unlisted = _unlisted([float(value) for value in top.values()], count - len(listed))
        return [max(listed.get(c, unlisted), _NEVER) for c in range(count)]
    if top:
        return [_NEVER] * count  # the model would say something else, and which verdict is likelier is not told
    text = as_text(choice["text"])
    found = next((c for name, c in names.items() if name.strip() == text.strip()), None)
    if found is not None:
        row[found] = 0.0
        return row
    return [float("nan")] * count


def _unlisted(listed: list[float], count: int) -> float:
    """At most how likely each of `count` candidates beyond the list is: less than the last on it, since a tie would
    pick a verdict that nobody gave, and no more than the list leaves for them together."""
    total = sum(math.exp(min(value, 1.0)) for value in listed)  # exp(1000) would overflow
    if not total < 1.01:
        raise ValueError(f"the probabilities of the first token come to {total:.3g}")
    left = max(1 - total, 1e-9) / max(count, 1)
    return min(min(listed) - _LESS, math.log(left))


def same_model(served: str, asked: str) -> bool:
    """Servers add a revision or a date to a name (`name@main`)."""
    return str(served).startswith(asked)


def as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text is {type(value).__name__}")
    return value
