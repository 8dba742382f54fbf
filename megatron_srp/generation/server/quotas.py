"""What one client may have at a time, so that it cannot fill the server alone."""

import threading
import time
from collections import defaultdict, deque

from megatron_srp.generation.server.settings import Client
from megatron_srp.generation.server.worker import Busy

_MINUTE = 60.0


class Quotas:
    """Counts the answers and requests of each client. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: defaultdict[str, int] = defaultdict(int)
        self._requests: defaultdict[str, deque[float]] = defaultdict(deque)

    def count_request(self, client: Client) -> None:
        """Raises Busy for more than the client may send in a minute."""
        most = client.requests_per_minute
        if most is None:
            return
        now = time.monotonic()
        with self._lock:
            recent = self._requests[client.name]
            while recent and recent[0] <= now - _MINUTE:
                recent.popleft()
            if len(recent) >= most:
                raise Busy(f"more than {most} requests in a minute", max(int(recent[0] + _MINUTE - now), 1))
            recent.append(now)

    def take(self, client: Client, answers: int) -> None:
        """Count answers that run or wait from now on; raises Busy for more than the client may have."""
        with self._lock:
            if client.max_answers is not None and self._answers[client.name] + answers > client.max_answers:
                raise Busy(f"more than {client.max_answers} answers of this key at a time")
            self._answers[client.name] += answers

    def give_back(self, client: Client, answers: int = 1) -> None:
        """They have ended."""
        with self._lock:
            self._answers[client.name] -= answers
