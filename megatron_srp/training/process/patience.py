"""Waiting for others on a machine that may stall, which holds them up too: what nobody lived through does not count."""

import math
import threading
import time

_STEP_S = 0.1


class Silence:
    """How long another has said nothing.

    Args:
        most_s: of the time between two looks, so much counts at most.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._lock = threading.Lock()  # one thread may listen while another looks
        self.end()

    def end(self) -> None:
        """It has said something."""
        with self._lock:
            self._seconds, self._looked = 0.0, time.monotonic()

    def seconds(self) -> float:
        """Look how long it has lasted."""
        with self._lock:
            now = time.monotonic()
            self._seconds += min(now - self._looked, self._most_s)
            self._looked = now
            return self._seconds


def sleep(seconds: float) -> None:
    """At least so long; after a stall, what was left before it."""
    for _ in range(math.ceil(seconds / _STEP_S)):
        time.sleep(_STEP_S)
