"""JSON over HTTP to an OpenAI-compatible endpoint, for jobs that run for days.

Many requests at once, but never more than a fixed number; errors that may pass (429, 5xx, time-outs, broken
connections, garbage) are retried with exponential backoff and jitter; errors that will not pass stop the
job at once with a clear line. The API key comes from the environment and goes into one header: no log line,
error message or store ever contains it.
"""

import asyncio
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from megatron_srp.annotation.engines.http_retry import (
    Limits,
    RetryNotes,
    backoff_s,
    error_message,
    kind_of,
    retry_after_s,
)
from megatron_srp.errors import GuardError, UsageError

KEY_VARIABLES = ("SRP_API_KEY", "OPENAI_API_KEY")
_BUSY = {429, 503, 529}  # "later": worth waiting for as long as `patience_s` says
_TRANSIENT = {408, 409, 425, 500, 502, 504}
_HOPELESS = {401, 403, 404, 405}  # no other request will fare better
_FIRST_PATIENCE_S = 20.0  # for an endpoint that has not answered once
_BROKEN = 20  # requests given up in a row: it is the endpoint, and not a text
_MOST_BYTES = 64 << 20
_SHOWN = 160


class RequestFailed(Exception):
    """One request got no usable answer; others may."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused  # the server read it and refuses it (400, 413, 422)


class EndpointRefuses(GuardError):
    """The server refuses all requests of this kind; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Passing(Exception):
    """A failed try worth repeating; `after_s` is how long the server asks to wait."""

    def __init__(self, reason: str, busy: bool = False, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.busy, self.after_s = busy, after_s


def api_key() -> str | None:
    """The API key in the environment, if there is one."""
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)


class EndpointClient:
    """Talks to `base_url` from a thread of its own, so that any thread may call it.

    Args:
        base_url: including `/v1`.

    Attributes:
        incidents: counts of errors that passed.

    Raises:
        UsageError: for something that is not an address.
    """

    def __init__(self, base_url: str, limits: Limits | None = None) -> None:
        import httpx

        self.limits = limits or Limits()
        self.incidents: Counter[str] = Counter()
        self._key = api_key()
        self._missed = 0
        self._reached = False
        try:
            url = httpx.URL(base_url.rstrip("/"))
        except (httpx.InvalidURL, TypeError):
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise UsageError(f"endpoint {base_url!r}: pass its address, such as http://127.0.0.1:8000/v1")
        self.url = str(url.copy_with(userinfo=b""))
        self._notes = RetryNotes(self.url)
        self._rng = random.Random()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        bounds = httpx.Limits(max_connections=self.limits.concurrency, max_keepalive_connections=None)
        timeout = httpx.Timeout(self.limits.timeout_s, pool=None)
        here = url.host in ("127.0.0.1", "localhost", "::1")  # no proxy from the environment applies
        self._client = httpx.AsyncClient(
            base_url=f"{url}/", headers=headers, limits=bounds, timeout=timeout, trust_env=not here
        )
        self._slots = asyncio.Semaphore(self.limits.concurrency)

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the client's loop and wait for it; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self._loop.is_running():
            self.run(self._client.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    async def request[T](self, method: str, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T:
        """The result of `read` on the JSON answer, after as many tries as it takes.

        Args:
            read: extracts the result from the answer; its ValueError, KeyError, TypeError or IndexError
                says that the answer is garbage.

        Raises:
            RequestFailed: when this request gets no usable answer.
            GuardError: when no request would.
        """
        async with self._slots:
            attempt, failing_since = 0, 0.0  # time in the queue does not mean a busy endpoint
            while True:
                try:
                    answer = await self._try(method, path, body, read)
                    self._missed = 0
                    return answer
                except _Passing as error:
                    wait, now = backoff_s(attempt, error.after_s, self._rng), time.monotonic()
                    failing_since = failing_since if attempt else now
                    attempt += 1
                    late = now - failing_since + wait > self._patience_s
                    if late if error.busy else attempt >= self.limits.tries:
                        self._give_up(error, attempt)
                    self.incidents[f"requests tried again: {kind_of(error)}"] += 1
                    self._notes.tell(str(error))
                    await asyncio.sleep(wait)

    @property
    def _patience_s(self) -> float:
        """An endpoint that never answered is more likely a wrong address than one that comes back."""
        return self.limits.patience_s if self._reached else min(self.limits.patience_s, _FIRST_PATIENCE_S)

    def _give_up(self, error: _Passing, attempts: int) -> None:
        reason = f"{error} ({attempts} {'try' if attempts == 1 else 'tries'})"
        self._missed += 1
        if error.busy or self._missed >= _BROKEN:
            lasting = f"for {self._patience_s:g} s" if error.busy else f"for {_BROKEN} requests in a row"
            raise GuardError(
                f"{self.url}: {reason}, and no better {lasting}; is it healthy? Finished parts are kept: rerun the "
                "same command"
            )
        self.incidents["requests given up"] += 1
        raise RequestFailed(reason)

    async def _try[T](self, method: str, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T:
        import httpx

        try:
            async with asyncio.timeout(self.limits.timeout_s):  # httpx's own timeout restarts with every byte
                async with self._client.stream(method, path, json=body) as response:
                    self._reached = True
                    content = await _read(response)
        except (TimeoutError, httpx.TimeoutException) as error:
            busy = isinstance(error, httpx.ConnectTimeout)
            raise _Passing(f"no answer within {self.limits.timeout_s:g} s", busy) from None
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise _Passing(f"cannot connect ({self._clean(str(error))})", busy=True) from None
        except httpx.TransportError as error:
            raise _Passing(f"the connection broke ({type(error).__name__})") from None
        if response.status_code != 200:
            self._refuse(response.status_code, content, response.headers.get("retry-after"))
        try:
            return read(json.loads(content))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _Passing(f"garbage: {self._clean(str(error))}") from None

    def _refuse(self, status: int, content: bytes, retry_after: str | None) -> None:
        reason = f"HTTP {status} {self._clean(error_message(content))}".rstrip()
        if status in _HOPELESS:
            what = f"is {' or '.join(KEY_VARIABLES)} set and" if status in (401, 403) else "is the address"
            raise EndpointRefuses(f"{self.url}: {reason}; {what} right?", status)
        if status in _BUSY:
            raise _Passing(reason, busy=True, after_s=retry_after_s(retry_after))
        if status in _TRANSIENT or status > 504:
            raise _Passing(reason, after_s=retry_after_s(retry_after))
        raise RequestFailed(reason, refused=True)

    def _clean(self, text: str) -> str:
        """`text` on one short line, without the key, which some servers repeat."""
        text = " ".join(text.replace(self._key, "***").split() if self._key else text.split())
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


async def _read(response: Any) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > _MOST_BYTES:
            raise _Passing(f"garbage: an answer of more than {_MOST_BYTES >> 20} MiB")
    return bytes(content)
