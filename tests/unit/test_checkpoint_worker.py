"""When the end of the process that writes checkpoints is the end of its rank."""

import os
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from megatron.core.dist_checkpointing.strategies.async_utils import PersistentAsyncCaller

from megatron_srp.errors import OutputError
from megatron_srp.training.process import checkpoint_worker


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None, int], int]:
    """Watch a worker that has ended with `code`, which Megatron drops after `looks` looks. Returns how many were made."""

    def run(code: int | None, looks: int) -> int:
        ended, other_end = os.pipe()
        os.close(other_end)  # so that there is something to read
        worker, made = SimpleNamespace(sentinel=ended, exitcode=code), 0

        def sleep(_: float) -> None:
            nonlocal made
            made += 1
            if made == looks:
                PersistentAsyncCaller._persistent_process = None

        monkeypatch.setattr(PersistentAsyncCaller, "_persistent_process", worker)
        monkeypatch.setattr(checkpoint_worker, "time", SimpleNamespace(sleep=sleep))
        try:
            checkpoint_worker._watch(worker, threading.Event())
        finally:
            os.close(ended)
        return made

    def exit_alone(error: Exception) -> None:
        raise error

    monkeypatch.setattr(checkpoint_worker, "exit_alone", exit_alone)
    return run


@pytest.mark.parametrize(("code", "looks"), [(0, 1000), (None, 1000), (-9, 50)])
def test_one_that_megatron_has_closed_is_no_reason(watch, code: int | None, looks: int) -> None:
    """On a busy machine it was reported as dead when its end took more than three seconds."""
    assert watch(code, looks) == looks


@pytest.mark.parametrize(
    ("code", "said"), [(-9, "by signal 9; has the machine"), (3, "was killed; has"), (0, "exit code 0"), (None, "None")]
)
def test_one_that_has_died_is(watch, code: int | None, said: str) -> None:
    with pytest.raises(
        OutputError, match=rf"checkpoints has died \(.*{said}.*resume from the last complete checkpoint"
    ):
        watch(code, 10_000)
