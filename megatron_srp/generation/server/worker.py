"""The thread that generates: takes jobs from a bounded queue into a running batch, and ends them by their deadlines."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_srp.generation.engines.base import GuardedEngine, Session
from megatron_srp.generation.engines.limits import Limits
from megatron_srp.generation.engines.request import Answer, Request
from megatron_srp.generation.guard.policy import Generation

_log = logging.getLogger(__name__)


class Busy(Exception):
    """There is no room for a job, or it has waited too long.

    Attributes:
        retry_after: seconds after which it is worth retrying.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Cancelled(Exception):
    """Nobody waits for the answer any more, and it had not begun."""


class Closing(Busy):
    """The server is shutting down."""


@dataclass(slots=True, eq=False)
class Job:
    """One answer that somebody waits for. The callbacks are called from the worker's thread.

    Attributes:
        on_end: called once, with the answer or with what went wrong.
        deadline: `time.monotonic()` at which it must end.
        cancelled: set from any thread when nobody waits for it any more.
        stopped: set from any thread to judge and end it.
        submitted, started, first_text: `time.monotonic()` of each, None before.
    """

    request: Request
    on_text: Callable[[str], None]
    on_end: Callable[[Generation | Exception], None]
    deadline: float
    cancelled: bool = False
    stopped: bool = False
    submitted: float = 0.0
    started: float | None = None
    first_text: float | None = None

    def show(self, text: str) -> None:
        """Pass on text of the answer."""
        self.first_text = self.first_text or time.monotonic()
        self.on_text(text)

    def over(self, now: float) -> bool:
        return self.cancelled or now >= self.deadline


class Worker:
    """Generates in its own thread.

    Args:
        limits: what is generated together.
        queue: maximum number of jobs that wait in addition.
    """

    def __init__(self, engine: GuardedEngine, limits: Limits, queue: int) -> None:
        self._engine, self._limits, self.capacity = engine, limits, limits.answers + queue
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[tuple[Job, Answer]] = []
        self._num_taken = 0  # off the queue and not reported yet
        self._seconds = 1.0  # that an answer takes, a moving average
        self._end_at = math.inf
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def closing(self) -> bool:
        return self._end_at < math.inf

    @property
    def done(self) -> bool:
        """Whether it has been drained to its end."""
        return self.closing and not self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """How many answers are being generated, and how many jobs wait."""
        with self._changed:
            return {"running": self._num_taken, "waiting": len(self._waiting)}

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take all of the jobs, or none.

        Raises:
            Busy: when the queue has no room for them.
            Closing: when the server is shutting down.
        """
        with self._changed:
            if self.closing:
                raise Closing("the server is shutting down")
            if self._num_taken + len(self._waiting) + len(jobs) > self.capacity:
                seconds = self._seconds * (1 + len(self._waiting) / self._limits.answers)
                raise Busy("the queue is full", min(max(math.ceil(seconds), 1), 60))
            for job in jobs:
                job.submitted = time.monotonic()
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for them any more. Those in the queue make room at once."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            gone = [job for job in self._waiting if job.cancelled]
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
            self._changed.notify()
        for job in gone:
            job.on_end(Cancelled())

    def drain(self, grace_s: float) -> None:
        """Accept nothing more, and finish what is there within that time. May be called from a signal handler."""
        self._end_at = time.monotonic() + grace_s

    def join(self, timeout_s: float) -> None:
        """Wait for the end after `drain`."""
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._generate()
        except Exception as error:  # the engine is dead, as closing its session or opening another shows
            _log.exception("the engine cannot continue; the server accepts nothing more")
            with self._changed:
                self.drain(0)
                waiting, self._waiting = self._waiting, deque()
            for job in waiting:
                job.on_end(error)
            self._fail(self._running, error)

    def _generate(self) -> None:
        session = self._engine.session()
        while True:
            with self._changed:
                while not (self._waiting or self._running or self.closing):
                    self._changed.wait(1.0)  # drain() cannot notify: a signal handler must not wait for a lock
                if self.closing and not (self._waiting or self._running):
                    return
                taken, late = self._take()
            for job in late:
                job.on_end(Busy("the request waited too long in the queue", 1))
            self._begin(session, taken)
            try:
                now = time.monotonic()
                for job, answer in self._running:
                    if job.cancelled:
                        answer.finish()
                    answer.stopping = job.stopped or now >= min(job.deadline, self._end_at)
                session.step()
                self._report()
            except Exception as error:  # from the engine: out of memory, say
                _log.exception("the engine failed; all running answers end")
                self._fail(self._running, error)
                session.close()
                session = self._engine.session()

    def _take(self) -> tuple[list[Job], list[Job]]:
        """Jobs to start, and those that have waited too long. The caller holds the lock."""
        now = time.monotonic()
        late = [job for job in self._waiting if job.over(now) or now >= self._end_at]
        self._waiting = deque(job for job in self._waiting if job not in late)
        taken: list[Job] = []
        running = [job.request for job, _ in self._running]
        while self._waiting and self._limits.admits(running, self._waiting[0].request):
            taken.append(self._waiting.popleft())
            running.append(taken[-1].request)
        self._num_taken += len(taken)
        return taken, late

    def _report(self) -> None:
        """Report the answers that have ended."""
        ended = [(job, answer) for job, answer in self._running if answer.ended]
        if not ended:
            return
        outcomes = [answer.error or answer.result() for _, answer in ended]  # before anything is forgotten
        self._forget(ended)
        for (job, answer), outcome in zip(ended, outcomes, strict=True):
            self._seconds += 0.1 * (time.monotonic() - answer.begun - self._seconds)
            if answer.error:
                _log.error("an answer has failed", exc_info=answer.error)
            job.on_end(outcome)

    def _begin(self, session: Session, jobs: list[Job]) -> None:
        """Take jobs into the batch; where that fails (for lack of memory, say), the running ones continue."""
        begun = [(job, Answer(job.request, self._engine.vocabulary, job.show)) for job in jobs]
        for job, answer in begun:
            job.started = answer.begun
        try:
            session.add([answer for _, answer in begun])
            self._running += begun
        except Exception as error:
            _log.exception("%d requests cannot be started", len(begun))
            for _, answer in begun:
                answer.finish()
            self._fail(begun, error)

    def _fail(self, failed: list[tuple[Job, Answer]], error: Exception) -> None:
        failed = list(failed)
        self._forget(failed)
        for job, _ in failed:
            job.on_end(error)

    def _forget(self, ended: list[tuple[Job, Answer]]) -> None:
        with self._changed:
            self._running = [pair for pair in self._running if pair not in ended]
            self._num_taken = len(self._running)
