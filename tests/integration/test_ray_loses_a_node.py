"""A Ray cluster of two nodes, each started by `ray start` with token authentication, that loses one at work."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_srp.annotation.store.part import read_part
from megatron_srp.annotation.store.store import AnnotationStore
from tests.helpers.commands import SRP
from tests.helpers.ports import free_port
from tests.helpers.tiny_guard import sample_text

pytest.importorskip("ray", reason="Ray is not installed: pip install 'megatron-srp[ray]'")
pytestmark = pytest.mark.exhaustive

START = [str(Path(sys.executable).with_name("ray")), "start", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
START += ["--num-cpus=1", "--object-store-memory=100000000", "--block"]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}


class Cluster:
    """A head and a worker, with a place for one actor each."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder / 'ray'}"]
        self.nodes = [self._start(head, folder / "head")]
        self.nodes.append(self._start([f"--address={self.address}"], folder / "worker"))

    def _start(self, flags: list[str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as file:
            node = subprocess.Popen(
                [*START, *flags], stdout=file, stderr=file, env=os.environ | TOKEN, start_new_session=True
            )
        deadline = time.monotonic() + 240
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return node

    def lose(self, number: int) -> None:
        """kill -9 of all processes of a node, its actors included."""
        os.killpg(self.nodes[number].pid, signal.SIGKILL)
        self.nodes[number].wait()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("r"))  # the paths of Ray's sockets must be short
    yield started
    for number, node in enumerate(started.nodes):
        if node.poll() is None:
            started.lose(number)


def annotate(flags: list[str], token: dict[str, str]) -> "subprocess.Popen[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [*SRP, "annotate", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env | token)


def verdicts(store: Path) -> list[str]:
    opened = AnnotationStore(store)
    ((key, fingerprint),) = opened.inputs()
    parts = [read_part(path) for _, path in opened.parts(key, fingerprint)]
    return [str(part.labels[code].verdict) for part in parts for code in part.codes]


def test_others_do_the_work_of_a_lost_node(cluster: Cluster, tiny_guard, write_jsonl, tmp_path) -> None:
    rng = random.Random(5)
    corpus = write_jsonl([sample_text(rng) for _ in range(3000)])
    flags = ["--input", str(corpus), "--guard", "qwen3guard", "--guard-model", str(tiny_guard), "--max-words", "50"]
    flags += ["--chunk-documents", "100", "--guard-option", "device=cpu"]
    on_ray = [*flags, "--guard-engine", "ray", "--store", str(tmp_path / "ray")]
    for option in (f"address={cluster.address}", "actors=3", "prompts_per_piece=8"):
        on_ray += ["--guard-option", option]

    refused = annotate(on_ray, {"HOME": str(tmp_path)})
    _, said = refused.communicate(timeout=300)
    assert refused.returncode == 2, said
    line = said.splitlines()[-1]  # after Ray's own warnings
    assert line.startswith("error: the Ray cluster at") and "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in line

    job = annotate(on_ray, TOKEN)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "ray").glob("text/*/*.parquet")):
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()
        time.sleep(0.05)
    cluster.lose(1)
    _, said = job.communicate(timeout=400)
    assert job.returncode == 0, said

    alone = annotate([*flags, "--store", str(tmp_path / "alone")], {})
    alone.communicate(timeout=300)
    assert verdicts(tmp_path / "ray") == verdicts(tmp_path / "alone")
