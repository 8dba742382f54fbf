"""Two nodes on this machine, each with a launcher of its own: one's end ends the other, with the cause."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.jobs import REPOSITORY, environment
from tests.helpers.ports import free_port

HOST = socket.gethostname()
NO_STORE_TRACES = {"TORCH_CPP_LOG_LEVEL": "ERROR"}


class Nodes:
    """Two launchers, with one rank each."""

    def __init__(self, folder: Path, what: str) -> None:
        port = str(free_port())
        self.logs = [folder / f"node-{node}" for node in range(2)]
        self.launchers = [self._start(node, port, what) for node in range(2)]

    def _start(self, node: int, port: str, what: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "megatron_srp.training.launch", "--nproc-per-node", "1", "--nnodes", "2"]
        command += ["--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", port]
        command += ["tests/distributed/a_rank.py", what]
        env = environment() | NO_STORE_TRACES | {"PYTHONPATH": str(REPOSITORY)}
        with self.logs[node].open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY, env=env, start_new_session=True)

    def wait_until_started(self, *nodes: int) -> None:
        """Until the ranks of these nodes, or of both, run."""
        deadline = time.monotonic() + 300
        while not all("started" in self.logs[node].read_text() for node in nodes or (0, 1)):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def said(self) -> list[str]:
        return [log.read_text() for log in self.logs]

    def codes(self) -> list[int]:
        """Wait far less than torchrun's own 300 s."""
        return [launcher.wait(timeout=200) for launcher in self.launchers]


@pytest.fixture
def started(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, request.param)
    yield nodes
    for launcher in nodes.launchers:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)


@pytest.mark.parametrize("started", ["sleep,fail"], indirect=True)
def test_a_failed_rank_ends_the_other_node(started: Nodes) -> None:
    started.wait_until_started(1)
    assert started.codes() == [2, 2]
    said = started.said()
    assert said[0].splitlines()[-1] == f"error: rank 1 on {HOST} (node 1): the shard x.bin is damaged"
    assert said[1].splitlines()[-1] == "error (rank 1): the shard x.bin is damaged"
    assert "Traceback" not in "".join(said)


@pytest.mark.parametrize("started", ["save,save"], indirect=True)
def test_a_signal_to_one_node_ends_both(started: Nodes) -> None:
    started.wait_until_started()
    started.launchers[1].send_signal(signal.SIGTERM)
    assert started.codes() == [143, 143]
    assert started.said()[0].splitlines()[-1] == f"error: the run was ended by SIGTERM on {HOST} (node 1)"
    assert started.said()[1].splitlines()[-1] == f"ended by SIGTERM on {HOST}"
    assert "Traceback" not in "".join(started.said())


@pytest.mark.parametrize("started", ["sleep,sleep"], indirect=True)
@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.exhaustive), 1])
def test_a_node_that_is_gone(lost: int, started: Nodes) -> None:
    started.wait_until_started()
    launcher = started.launchers[lost]
    os.killpg(launcher.pid, signal.SIGKILL if lost else signal.SIGSTOP)  # dead; or alive, but not answering
    other = started.launchers[1 - lost]
    assert other.wait(timeout=200) == 1
    line = started.said()[1 - lost].splitlines()[-1]
    assert line.startswith(f"error: node {lost}") and "gave no sign of life for 20 s" in line
    assert "Traceback" not in started.said()[1 - lost]


@pytest.mark.parametrize("started", ["finish,sleep"], indirect=True)
def test_a_node_that_has_finished_waits_for_the_other(started: Nodes) -> None:
    started.wait_until_started()
    with pytest.raises(subprocess.TimeoutExpired):
        started.launchers[0].wait(timeout=3)
    started.launchers[1].send_signal(signal.SIGTERM)
    assert started.codes() == [143, 143]


@pytest.mark.parametrize("started", ["8,7"], indirect=True)
def test_a_rank_that_hangs(started: Nodes) -> None:
    started.wait_until_started()
    assert started.codes() == [1, 1]
    line = rf"^error: no micro-batch for \d+ s: the others wait for rank 1 on {HOST}, with 7 of 8; rerun"
    for said in started.said():
        assert re.search(line, said, re.MULTILINE)
        assert "Traceback" not in said
