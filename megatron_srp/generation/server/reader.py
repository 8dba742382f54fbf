"""Passes an answer's text from the worker's thread to the coroutine that reads it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

from megatron_srp.generation.engines.request import Request
from megatron_srp.generation.guard.policy import Generation
from megatron_srp.generation.server.worker import Job, Worker

Event = tuple[int, str | Generation]  # the answer's index; text to show, or its end
OnEnd = Callable[[Job, Generation | Exception], None]


class StopTexts:
    """Ends a text before the first of its stop texts. What may become one is held back.

    Attributes:
        found: whether one was.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts, self._held, self.found = texts, "", False

    def feed(self, text: str, ended: bool = False) -> str:
        """Text to show now."""
        if self.found:
            return ""
        self._held += text
        at = min((i for i in map(self._held.find, self._texts) if i >= 0), default=-1)
        if at >= 0:
            self.found = True
            return self._held[:at]
        keep = 0 if ended else self._partial()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def _partial(self) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        longest = min(max(map(len, self._texts), default=1) - 1, len(self._held))
        ends = (n for n in range(longest, 0, -1) if any(t.startswith(self._held[-n:]) for t in self._texts))
        return next(ends, 0)


class Reader:
    """The answers to one HTTP request.

    Args:
        on_end: called from the worker's thread with each answer that has ended, or what made it fail.

    Attributes:
        stops: of each answer.
    """

    def __init__(
        self, worker: Worker, requests: Sequence[Request], stops: Sequence[str], timeout_s: float, on_end: OnEnd
    ) -> None:
        self._worker, self._loop, self._on_end = worker, asyncio.get_running_loop(), on_end
        self._events: asyncio.Queue[tuple[int, str | Generation | Exception]] = asyncio.Queue()
        self.stops = [StopTexts(stops) for _ in requests]
        deadline = time.monotonic() + timeout_s
        self._jobs = [self._job(i, request, deadline) for i, request in enumerate(requests)]
        worker.submit(self._jobs)

    async def events(self) -> AsyncIterator[Event]:
        """Texts and ends of the answers, as they arrive.

        Raises:
            Exception: what made one of them fail.
        """
        going = len(self._jobs)
        while going:
            index, found = await self._events.get()
            if isinstance(found, Exception):
                raise found
            going -= isinstance(found, Generation)
            yield index, found

    def cancel(self) -> None:
        """Nobody reads any more."""
        self._worker.cancel(self._jobs)

    def _job(self, index: int, request: Request, deadline: float) -> Job:
        stop = self.stops[index]

        def on_text(text: str) -> None:
            shown = stop.feed(text)
            job.stopped |= stop.found
            if shown:
                self._put(index, shown)

        def on_end(found: Generation | Exception) -> None:
            self._on_end(job, found)  # first: what its reader has seen is in the log
            if rest := stop.feed("", ended=True):
                self._put(index, rest)
            self._put(index, found)

        job = Job(request, on_text, on_end, deadline)
        return job

    def _put(self, index: int, found: str | Generation | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server is gone
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, found))
