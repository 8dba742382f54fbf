"""One engine per GPU, on as many machines as a Ray cluster has.

The prompts of a call are cut into pieces, which the actors take in turn; results come back in
order. The piece of a lost actor goes back to the queue. Prompts are built
by the callers' threads (`--workers`), ahead of the actors, so that a GPU never waits for a tokenizer.
"""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from megatron_srp.annotation.engines import Engine, Prompts, load_engine
from megatron_srp.annotation.engines.ray_actors import AHEAD, Actors, Slot
from megatron_srp.errors import SrpError, UsageError
from megatron_srp.ray_cluster import start_ray

_PROMPTS_OF_A_CALL = 4096  # about as many as one batch of text has
_MOST_LOST = 3  # actors that one piece may cost; after that the piece is to blame


class _Host:
    """The actor: it runs an engine of this project, which the first call loads."""

    def __init__(self, engine: str, model: str, options: dict[str, Any]) -> None:
        self._how = engine, model, options

    @cached_property
    def _engine(self) -> Engine:
        engine, model, options = self._how
        return load_engine(engine, model, **options)

    def has_place(self) -> bool:
        """Answers as soon as the cluster has started this actor."""
        return True

    def describe(self) -> tuple[int, str, int]:
        """Maximum length, revision, and process id."""
        return self._engine.max_length, self._engine.revision, os.getpid()

    def next_token_logprobs(self, prompts: Prompts, candidates: list[int]) -> np.ndarray:
        return self._engine.next_token_logprobs(prompts, candidates)

    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: list[int]) -> list[np.ndarray]:
        return self._engine.generate(prompts, max_new_tokens, stop_ids)


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
        if gpus and gpus_per_actor > gpus:
            raise UsageError(f"--guard-engine ray: an actor of {gpus_per_actor} GPUs, but the cluster has {gpus}")
        count = actors or max(gpus // gpus_per_actor, 1)
        hosts = ray.remote(num_cpus=1, num_gpus=gpus_per_actor if gpus else 0, max_restarts=0)(_Host)
        self.callers = 2 + count * AHEAD * prompts_per_piece // _PROMPTS_OF_A_CALL
        self.actors = Actors(ray, lambda: hosts.remote(ray_engine, model, options), count, self.incidents)
        try:
            self._wait_for_one()
        except SrpError:
            self.close()
            raise
        self.max_length, self.revision, _ = self.actors.description

    def _wait_for_one(self) -> None:
        slot = self.actors.take(block=True)
        assert slot is not None
        self.actors.give_back(slot)

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
        self.actors.close()
        if self._started_ray:
            self._ray.shutdown()

    def _spread(self, prompts: Prompts, method: str, *arguments: Any) -> list[tuple[np.ndarray, Any]]:
        """Calls `method` on all prompts but those that cost too many actors: their rows and results."""
        size = self._piece_size
        waiting = deque(_Piece(np.arange(i, min(i + size, len(prompts)))) for i in range(0, len(prompts), size))
        running: dict[Any, tuple[_Piece, Slot]] = {}
        done: list[tuple[np.ndarray, Any]] = []
        try:
            while waiting or running:
                while waiting and (slot := self.actors.take(block=not running)):
                    piece = waiting.popleft()
                    call = getattr(slot.actor, method)
                    running[call.remote(prompts.take(piece.rows), *arguments)] = (piece, slot)
                (reference, *_), _ = self._ray.wait([*running], num_returns=1)
                piece, slot = running.pop(reference)
                if (found := self._collect(reference, slot)) is None:
                    self._requeue(piece, waiting)
                else:
                    done.append((piece.rows, found))
        finally:
            for _, slot in running.values():
                self.actors.give_back(slot)
        return done

    def _collect(self, reference: Any, slot: Slot) -> Any:
        """The result of a piece; None if its actor is lost, or the result is, with the machine it was on."""
        try:
            found = self._result(reference)
        except self._ray.exceptions.RayActorError:
            self.actors.replace(slot)
            return None
        except self._ray.exceptions.ObjectLostError:
            found = None
        except BaseException:
            self.actors.give_back(slot)
            raise
        self.actors.give_back(slot)
        return found

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
