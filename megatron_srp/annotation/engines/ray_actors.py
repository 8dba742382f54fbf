"""The actors of the Ray engine: those that work, and those that wait for a place in the cluster.

Only an actor that has answered gets work. One without a place, on a cluster that has lost a node or is too small,
is reported and tried on; the others do its work.
"""

import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron_srp.errors import GuardError, SrpError

AHEAD = 2  # pieces at an actor: one in progress, one waiting
SECONDS_FOR_A_PLACE = 30.0  # then a note
SECONDS_WITHOUT_ANY = 900.0  # no actor works: the run ends
_LOOK_EVERY_S = 1.0
_MOST_DEATHS = 5  # actors lost in a row without a result; after that the engine is to blame
_KEPT = "finished parts are kept: rerun the same command"


@dataclass(slots=True, eq=False)
class Worker:
    """One of the actors asked for; `life` counts those that it has had."""

    actor: Any = None
    life: int = 0
    placed: bool = False
    working: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one piece at an actor that works."""

    worker: Worker
    life: int

    @property
    def actor(self) -> Any:
        return self.worker.actor

    @property
    def is_current(self) -> bool:
        """Whether the actor is still the same."""
        return self.worker.working and self.worker.life == self.life


class Actors:
    """Keeps `count` actors, as far as the cluster has places.

    Args:
        ray: the module, connected.
        new_actor: starts one; its `has_place()` answers when it runs, its `describe()` when it can work.
        incidents: counts the lost ones.
    """

    def __init__(self, ray: Any, new_actor: Callable[[], Any], count: int, incidents: Counter[str]) -> None:
        self._ray, self._new_actor, self._incidents = ray, new_actor, incidents
        self._lock = threading.Lock()
        self._slots: queue.Queue[Slot] = queue.Queue()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failure: SrpError | None = None
        self._deaths = 0
        self._noted = 0  # how many were without a place in the last note
        self.description: Any = None  # of the first that answered
        self.workers = [Worker() for _ in range(count)]
        for worker in self.workers:
            self._start(worker)

    def take(self, block: bool) -> Slot | None:
        """Room for a piece; None where there is none now.

        Args:
            block: wait for it.

        Raises:
            GuardError: when actors only die, or none has had a place for a quarter of an hour.
        """
        end = time.monotonic() + SECONDS_WITHOUT_ANY
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                slot = self._slots.get(block, timeout=1.0)
            except queue.Empty:
                if not block:
                    return None
                if any(worker.working for worker in self.workers):
                    end = time.monotonic() + SECONDS_WITHOUT_ANY
                elif time.monotonic() > end:
                    raise GuardError(
                        f"--guard-engine ray: no actor has had a place for {SECONDS_WITHOUT_ANY:.0f} s; {_KEPT} when "
                        "the cluster has room"
                    ) from None
                continue
            if slot.is_current:
                return slot

    def give_back(self, slot: Slot) -> None:
        """After a result."""
        self._deaths = 0
        self._slots.put(slot)

    def replace(self, slot: Slot) -> None:
        """After the loss of a slot's actor: start another in its place."""
        with self._lock:
            if slot.is_current:  # else it was reported by another of its pieces
                self._incidents["actors lost and replaced"] += 1
                self._restart(slot.worker)

    def close(self) -> None:
        """Kill them. No thread is left then that calls Ray: once disconnected, such a call starts a cluster."""
        with self._lock:
            self._closed.set()
        for worker in self.workers:
            self._ray.kill(worker.actor)
        for thread in self._threads:
            thread.join()

    def _restart(self, worker: Worker) -> None:
        self._deaths += 1
        worker.placed = worker.working = False
        worker.life += 1
        if self._deaths > _MOST_DEATHS:
            self._failure = GuardError(
                f"--guard-engine ray: {self._deaths} actors died in a row (out of memory?); {_KEPT}"
            )
        else:
            self._start(worker)

    def _start(self, worker: Worker) -> None:
        worker.actor = self._new_actor()
        thread = threading.Thread(target=self._await, args=(worker, worker.actor), name="ray-actor", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _await(self, worker: Worker, actor: Any) -> None:
        try:
            if not self._is_there(actor.has_place.remote(), self._note_waiting):
                return
            worker.placed = True
            if not self._is_there(described := actor.describe.remote()):
                return
            description = self._ray.get(described)
        except Exception as error:  # whatever it is, it must not end this thread in silence
            self._fail_to_start(worker, error)
            return
        self.description = self.description or description
        worker.working = True
        for _ in range(AHEAD):
            self._slots.put(Slot(worker, worker.life))

    def _is_there(self, reference: Any, on_long_wait: Callable[[], None] = lambda: None) -> bool:
        """Wait for a result; False where the actors are closed before it comes."""
        step, waited = min(_LOOK_EVERY_S, SECONDS_FOR_A_PLACE), 0.0
        while not self._closed.is_set():
            if self._ray.wait([reference], timeout=step)[0]:
                return not self._closed.is_set()
            waited += step
            if waited >= SECONDS_FOR_A_PLACE:
                waited = 0.0
                on_long_wait()
        return False

    def _fail_to_start(self, worker: Worker, error: Exception) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            cause = getattr(error, "cause", None)
            if self.description is not None and not isinstance(cause, SrpError):  # others of its kind have started
                self._restart(worker)
            else:
                self._failure = cause if isinstance(cause, SrpError) else _loading_error(error)

    def _note_waiting(self) -> None:
        """Once for each number of actors without a place."""
        with self._lock:
            working = sum(worker.working for worker in self.workers)
            missing = sum(not worker.placed for worker in self.workers)
            if missing == self._noted:
                return
            self._noted = missing
        others = f"{working} others do the work" if working else "none works yet"
        print(
            f"warning: --guard-engine ray: the cluster has no place for {missing} of {len(self.workers)} actors; "
            f"{others}; `ray status` shows its nodes",
            file=sys.stderr,
            flush=True,
        )


def _loading_error(error: Exception) -> SrpError:
    """The error of an actor that could not load its engine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no reason given")
    return GuardError(f"--guard-engine ray: an actor did not start: {last[:300]}")
