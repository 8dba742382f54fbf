"""Limits on the requests to an endpoint, retries, and reports of its errors."""

import email.utils
import json
import math
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from megatron_srp.errors import UsageError

_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the requests to an endpoint; raises UsageError for a value that is not allowed.

    Attributes:
        concurrency: maximum concurrent requests.
        timeout_s: for one try, from connecting to the last byte.
        tries: maximum tries of a request that fails by itself.
        patience_s: how long to wait, from a request's first failure, for an endpoint that is busy or
            unreachable.
    """

    concurrency: int = 64
    timeout_s: float = 120.0
    tries: int = 6
    patience_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "tries"):
            require_whole(name, getattr(self, name))
        for name in ("timeout_s", "patience_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UsageError(f"{name}={value}: pass a number of seconds above 0")


def require_whole(name: str, value: Any) -> None:
    """Raises UsageError unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name}={value}: pass a whole number of at least 1")


@dataclass(slots=True)
class RetryNotes:
    """Reports on stderr that requests fail and are tried again: at once, then at most once in `every_s` seconds.

    A live progress display captures what is written to stderr and shows it above itself.
    """

    url: str
    every_s: float = 60.0
    _failed: int = field(default=0, init=False)
    _told: float = field(default=float("-inf"), init=False)

    def tell(self, reason: str) -> None:
        """Count a failed try."""
        self._failed += 1
        if time.monotonic() - self._told < self.every_s:
            return
        times = f", {self._failed:,} times since the last such line" if self._failed > 1 else ""
        print(f"warning: {self.url}: {reason}{times}; trying again", file=sys.stderr, flush=True)
        self._failed, self._told = 0, time.monotonic()


def backoff_s(attempt: int, after_s: float, rng: random.Random) -> float:
    """How long to wait after try `attempt`, from 0: doubling, with jitter, and at least what the server asks for."""
    return after_s + min(_LONGEST_WAIT_S, 0.5 * 2**attempt) * rng.uniform(0.5, 1.0)


def error_message(content: bytes) -> str:
    text = content.decode(errors="replace")
    try:
        error = json.loads(text)
        error = error.get("error", error.get("detail", error))
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return text


def retry_after_s(retry_after: str | None) -> float:
    """Seconds to wait, from a Retry-After header: seconds or a date."""
    if not retry_after:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def kind_of(error: Exception) -> str:
    """An error's text without the parts that differ from one to the next."""
    words = str(error).split(":")[0].split("(")[0].split()
    return " ".join(words[:2] if words[0] == "HTTP" else words)
