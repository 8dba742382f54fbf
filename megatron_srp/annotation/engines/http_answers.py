"""What the answers of `/v1/completions` say of a prompt, in the ways of different servers."""

from typing import Any

import numpy as np


def read_logprobs(choice: dict[str, Any], names: dict[str, int], count: int) -> list[float]:
    """Log-probabilities of the candidates from one choice.

    Args:
        names: how the server may call the candidates, and which each is.
        count: of candidates.

    Raises:
        ValueError: when the choice speaks of none of them.
    """
    row = [-np.inf] * count
    top = ((choice.get("logprobs") or {}).get("top_logprobs") or [{}])[0] or {}
    listed = {names[token]: float(value) for token, value in top.items() if token in names}
    if listed:
        least = min(float(value) for value in top.values())  # a candidate beyond the list has at most that
        return [max(listed.get(c, least), -9999.0) for c in range(count)]
    if "logprobs" in choice and top:
        return [float(min(top.values()))] * count  # the model would say something else
    text = as_text(choice["text"])
    found = next((c for name, c in names.items() if name.strip() == text.strip()), None)
    if found is not None:
        row[found] = 0.0
        return row
    return [float("nan")] * count


def same_model(served: str, asked: str) -> bool:
    """Servers add a revision or a date to a name (`name@main`)."""
    return str(served).startswith(asked)


def as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text is {type(value).__name__}")
    return value
