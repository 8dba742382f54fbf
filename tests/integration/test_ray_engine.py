"""The ray engine on a real cluster of this machine, with actors that are killed at work."""

import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.annotation.engines import ray_actors
from megatron_srp.errors import UsageError
from tests.helpers.tiny_guard import sample_text

ray = pytest.importorskip("ray")


def nothing_is_left() -> bool:
    """No connection, and no thread that would make another: Ray ends a process whose cluster is gone, a minute later."""
    return not ray.is_initialized() and not any(thread.name == "ray-actor" for thread in threading.enumerate())


@pytest.mark.slow
def test_a_killed_actor_is_replaced_and_its_work_done_by_others(tiny_guard):
    rng = random.Random(3)
    texts = [sample_text(rng) for _ in range(1200)]
    alone = load_guard("qwen3guard", GuardOptions(str(tiny_guard)))
    options = {"actors": 2, "prompts_per_piece": 8}
    guard: Any = load_guard("qwen3guard", GuardOptions(str(tiny_guard), engine="ray", engine_options=options))
    try:
        pids = [ray.get(worker.actor.describe.remote())[2] for worker in guard.engine.actors.workers]
        assert len(set(pids)) == 2 <= guard.engine.callers

        at_work, collect = threading.Event(), guard.engine._collect

        def collected(*given):
            at_work.set()
            return collect(*given)

        guard.engine._collect = collected

        def kill():
            at_work.wait(600)
            os.kill(pids[1], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        judged = guard.results(texts)
        killer.join()
        expected = alone.results(texts)
        assert guard.engine.incidents == {"actors lost and replaced": 1}
        assert [one.label for one in judged] == [one.label for one in expected]
        assert [one.score for one in judged] == pytest.approx([one.score for one in expected], abs=1e-5)
        assert guard.settings["revision"] == alone.settings["revision"]
    finally:
        guard.close()
    assert nothing_is_left()


@pytest.mark.slow
def test_actors_without_a_place_are_reported_and_not_waited_for(tiny_guard, capsys, monkeypatch):
    monkeypatch.setattr(ray_actors, "SECONDS_FOR_A_PLACE", 0.1)
    count = len(os.sched_getaffinity(0)) + 3  # an actor takes a core
    options = GuardOptions(str(tiny_guard), engine="ray", engine_options={"actors": count, "prompts_per_piece": 2})
    guard: Any = load_guard("qwen3guard", options)
    try:
        deadline = time.monotonic() + 600
        while "no place for 3 of" not in (said := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert f"the cluster has no place for 3 of {count} actors; " in said
        assert len(guard.results([sample_text(random.Random(i)) for i in range(40)])) == 40
    finally:
        guard.close()
    assert nothing_is_left()


def test_an_engine_that_no_actor_runs_and_a_cluster_that_is_not_there_are_refused(tiny_guard):
    options = GuardOptions(str(tiny_guard), engine="ray", engine_options={"address": "127.0.0.1:9"})
    with pytest.raises(UsageError, match=r"no Ray cluster answers at 127\.0\.0\.1:9 .*refused"):
        load_guard("qwen3guard", options)
    options = GuardOptions(str(tiny_guard), engine="ray", engine_options={"ray_engine": "http"})
    with pytest.raises(UsageError, match="choose from hf, vllm"):
        load_guard("qwen3guard", options)
