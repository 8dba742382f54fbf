"""`srp check cluster` on two nodes of this machine: two launchers that meet over loopback."""

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.distributed.jobs import REPOSITORY, environment
from tests.helpers.commands import SRP
from tests.helpers.ports import free_port

HOST = socket.gethostname()


@dataclass
class Done:
    """Of both nodes, in their order."""

    codes: list[int]
    said: list[str]


def check(*argv: str, node: int, settings: dict[str, str], cwd: Path = REPOSITORY) -> "subprocess.Popen[str]":
    env = environment() | {"CUDA_VISIBLE_DEVICES": "", "TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONPATH": str(REPOSITORY)}
    env |= {"NNODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": "127.0.0.1"} | settings
    command = [*SRP, "check", "cluster", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=env)


def check_both(*argv: str, folders: tuple[Path, Path] = (REPOSITORY, REPOSITORY), **settings: str) -> Done:
    port = {"MASTER_PORT": str(free_port())}
    nodes = [check(*argv, node=node, settings=port | settings, cwd=folders[node]) for node in range(2)]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    return Done([node.returncode for node in nodes], said)


def lines(said: str) -> list[str]:
    """Without the reminders of a start that takes long."""
    return [line for line in said.splitlines() if not line.startswith("note: waiting for ")]


def test_nodes_that_could_train(tmp_path: Path) -> None:
    done = check_both("--out", str(tmp_path / "run"), "--preset", "debug")
    assert done.codes == [0, 0], done.said
    assert [line.split("  ")[0] for line in lines(done.said[0])] == [
        *("nodes", "", "versions", "folder", "space", "all-reduce"),
        "next: srp train, with the same flags for the nodes",
    ]
    assert f"node 1: {HOST}, 127.0.0.1, 1 x CPU" in done.said[0]
    assert "gloo, 16 MB on 2 ranks" in done.said[0]
    assert "3 more checkpoints of debug will take 0.3 GB" in done.said[0]
    assert lines(done.said[1]) == []
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_the_nodes_do_not_share(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = check_both("--out", "run", folders=(tmp_path / "a", tmp_path / "b"))
    assert done.codes == [1, 1], done.said
    assert f"error: --out run on {HOST} is not the folder that node 1 has under this name" in done.said[0]
    assert "Traceback" not in "".join(done.said)
    assert not list(tmp_path.glob("*/run/*"))


@pytest.mark.exhaustive
def test_an_interface_without_a_way_to_the_others() -> None:
    """Only the training's own data go over it, so the launchers meet."""
    done = check_both(GLOO_SOCKET_IFNAME="nowhere0")
    assert set(done.codes) == {2}
    assert "on every node set GLOO_SOCKET_IFNAME to the interface in that network (the one with 127.0.0.1, of" in (
        "".join(done.said)
    )
    assert "Traceback" not in "".join(done.said)


def test_a_node_that_does_not_come() -> None:
    node = check("--timeout", "2", node=1, settings={"MASTER_PORT": str(free_port())})
    said, _ = node.communicate(timeout=600)
    assert node.returncode == 2
    assert said.splitlines()[-1].startswith("error: the nodes cannot meet: ") and "Traceback" not in said
