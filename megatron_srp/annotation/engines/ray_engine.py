"""One engine per GPU, on as many machines as a Ray cluster has.

The prompts of a call are cut into pieces, which the actors take in turn; results come back in
order. A lost actor is replaced by a new one, and its piece goes back to the queue. Prompts are built
by the callers' threads (`--workers`), ahead of the actors, so that a GPU never waits for a tokenizer.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from megatron_srp.annotation.engines import Engine, Prompts, load_engine
from megatron_srp.errors import GuardError, SrpError, UsageError
from megatron_srp.ray_cluster import start_ray

_AHEAD = 2  # pieces at an actor: one in progress, one waiting
_PROMPTS_OF_A_CALL = 4096  # about as many as one batch of text has
_MOST_LOST = 3  # actors that one piece may cost; after that the piece is to blame
_MOST_DEATHS = 5  # actors lost in a row without a result; after that the engine is to blame


class _Host:
    """The actor: it runs an engine of this project."""

    def __init__(self, engine: str, model: str, options: dict[str, Any]) -> None:
        self._engine = load_engine(engine, model, **options)

    def describe(self) -> tuple[int, str, int]:
        """Maximum length, revision, and process id."""
        return self._engine.max_length, self._engine.revision, os.getpid()

    def next_token_logprobs(self, prompts: Prompts, candidates: list[int]) -> np.ndarray:
        return self._engine.next_token_logprobs(prompts, candidates)

    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: list[int]) -> list[np.ndarray]:
        return self._engine.generate(prompts, max_new_tokens, stop_ids)


@dataclass(slots=True)
class _Worker:
    """A place for an actor; `life` counts the actors it has had."""

    actor: Any
    life: int = 0


@dataclass(slots=True)
class _Piece:
    rows: np.ndarray
    lost: int = 0


class RayEngine(Engine):
    """Spreads prompts over actors.

    Args:
        model: folder or hub name, the same on all machines.
        ray_engine: the engine an actor runs: "hf" or "vllm".
        actors: how many; by default one per GPU of the cluster, or one where it has no GPU.
        gpus_per_actor: GPUs of each actor, on a cluster with GPUs.
        address: of the cluster; by default RAY_ADDRESS, else a new cluster on this machine.
        prompts_per_piece: how many an actor takes at a time.
        options: of `ray_engine`.

    Raises:
        UsageError, GuardError: as the actors' engine does.
    """

    requires: ClassVar[tuple[str, ...]] = ("ray",)

    def __init__(
        self,
        model: str,
        ray_engine: str = "hf",
        actors: int | None = None,
        gpus_per_actor: int = 1,
        address: str | None = None,
        prompts_per_piece: int = 512,
        **options: Any,
    ) -> None:
        if ray_engine not in ("hf", "vllm"):
            raise UsageError(f"--guard-option ray_engine={ray_engine}: choose from hf, vllm")
        import ray

        self._ray, self._piece_size = ray, prompts_per_piece
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            start_ray(address)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = actors or max(gpus // gpus_per_actor, 1)
        if gpus and count * gpus_per_actor > gpus:
            raise UsageError(f"--guard-engine ray: {count} actors of {gpus_per_actor} GPUs, but the cluster has {gpus}")
        hosts = ray.remote(num_cpus=1, num_gpus=gpus_per_actor if gpus else 0, max_restarts=0)(_Host)
        self._new_actor: Callable[[], Any] = lambda: hosts.remote(ray_engine, model, options)
        self.callers = 2 + count * _AHEAD * prompts_per_piece // _PROMPTS_OF_A_CALL
        self._lock = threading.Lock()
        self._deaths = 0
        self.workers = [_Worker(self._new_actor()) for _ in range(count)]
        self._slots: queue.Queue[_Worker] = queue.Queue()
        for worker in self.workers * _AHEAD:
            self._slots.put(worker)
        try:
            self.max_length, self.revision, _ = self._result(self.workers[0].actor.describe.remote())
        except ray.exceptions.ActorDiedError as error:
            self.close()
            raise _loading_error(ray_engine, error) from None

    def next_token_logprobs(self, prompts: Prompts, candidates: Sequence[int]) -> np.ndarray:
        ids = [int(i) for i in candidates]
        out = np.full((len(prompts), len(ids)), np.nan, np.float32)
        for rows, found in self._spread(prompts, "next_token_logprobs", ids):
            out[rows] = found
        return out

    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: Sequence[int]) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.empty(0, np.int32)] * len(prompts)
        for rows, found in self._spread(prompts, "generate", max_new_tokens, [int(i) for i in stop_ids]):
            for row, ids in zip(rows.tolist(), found, strict=True):
                out[row] = ids
        return out

    def close(self) -> None:
        for worker in self.workers:
            self._ray.kill(worker.actor)
        if self._started_ray:
            self._ray.shutdown()

    def _spread(self, prompts: Prompts, method: str, *arguments: Any) -> list[tuple[np.ndarray, Any]]:
        """Calls `method` on all prompts but those that cost too many actors: their rows and results."""
        size = self._piece_size
        waiting = deque(_Piece(np.arange(i, min(i + size, len(prompts)))) for i in range(0, len(prompts), size))
        running: dict[Any, tuple[_Piece, _Worker, int]] = {}
        done: list[tuple[np.ndarray, Any]] = []
        try:
            while waiting or running:
                while waiting and (worker := self._free_worker(block=not running)):
                    piece = waiting.popleft()
                    call = getattr(worker.actor, method)
                    running[call.remote(prompts.take(piece.rows), *arguments)] = (piece, worker, worker.life)
                (reference, *_), _ = self._ray.wait([*running], num_returns=1)
                piece, worker, life = running.pop(reference)
                try:
                    done.append((piece.rows, self._result(reference)))
                    self._deaths = 0
                except self._ray.exceptions.RayActorError:
                    self._replace(worker, life)
                    self._requeue(piece, waiting)
                finally:
                    self._slots.put(worker)
        finally:
            for _, worker, _ in running.values():
                self._slots.put(worker)
        return done

    def _free_worker(self, block: bool) -> _Worker | None:
        try:
            return self._slots.get(block)
        except queue.Empty:
            return None

    def _replace(self, worker: _Worker, life: int) -> None:
        with self._lock:
            if worker.life != life:  # already reported by another of its pieces
                return
            self._deaths += 1
            if self._deaths > _MOST_DEATHS:
                raise GuardError(
                    f"--guard-engine ray: {self._deaths} actors died in a row (out of memory?); finished "
                    "parts are kept: rerun the same command"
                )
            self.incidents["actors lost and replaced"] += 1
            worker.life += 1
            worker.actor = self._new_actor()

    def _requeue(self, piece: _Piece, waiting: deque[_Piece]) -> None:
        piece.lost += 1
        if piece.lost < _MOST_LOST:
            waiting.appendleft(piece)
        elif len(piece.rows) > 1:  # one of them may be the cause
            waiting.extend(_Piece(half, _MOST_LOST - 1) for half in np.array_split(piece.rows, 2))
        else:
            self.incidents["prompts without an answer: their actors died"] += 1

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SrpError):
                raise error.cause from None
            raise


def _loading_error(engine: str, error: Exception) -> SrpError:
    """The error of an actor that could not load its engine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no reason given")
    return GuardError(f"--guard-engine ray: an actor with {engine} did not start: {last[:300]}")
