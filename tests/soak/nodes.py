"""Two simulated nodes: network namespaces with a link between them, and a small disk that both share."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from megatron_srp.errors import UsageError
from tests.distributed.jobs import REPOSITORY, environment

DISK_MB = 500  # the preflight wants space for three checkpoints
_ADDRESSES = ("10.91.0.1", "10.91.0.2")
_PORT = "29533"
_DEVICE = "wire"


@dataclass(frozen=True)
class Cluster:
    """Both nodes.

    Attributes:
        name: begins the names of the namespaces, `NAME-0` and `NAME-1`.
        disk: a file system in memory, of DISK_MB.
        temporary: the folder for temporary files, of the processes of both.
    """

    name: str
    disk: Path
    temporary: Path

    def start(self, node: int, command: list[str], log: Path, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Run one node's part of a job in its namespace."""
        env = environment() | {
            "NNODES": "2",
            "NODE_RANK": str(node),
            "GPUS_PER_NODE": "1",
            "MASTER_ADDR": _ADDRESSES[0],
            "MASTER_PORT": _PORT,
            "GLOO_SOCKET_IFNAME": _DEVICE,
            "TMPDIR": str(self.temporary),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(REPOSITORY),
        }
        with log.open("wb") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", f"{self.name}-{node}", *command],
                stdout=file,
                stderr=file,
                env=env | variables,
                cwd=REPOSITORY,
            )

    def processes(self, node: int) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", f"{self.name}-{node}").split()]

    def kill(self, node: int) -> None:
        """SIGKILL for all of a node's processes, as when its power fails."""
        for pid in self.processes(node):
            end(pid, signal.SIGKILL)

    def set_link(self, up: bool) -> None:
        _ip("-n", f"{self.name}-1", "link", "set", _DEVICE, "up" if up else "down")

    def fill_disk(self) -> None:
        with (self.disk / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                return

    def empty_disk(self) -> None:
        (self.disk / "filler").unlink(missing_ok=True)


@contextmanager
def two_nodes(folder: Path) -> Iterator[Cluster]:
    """Build them in `folder`, and remove what belongs to the machine when done.

    Raises:
        UsageError: where this user or machine cannot make network namespaces.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise UsageError("the nodes are network namespaces: run this as root, on a machine with iproute2")
    cluster = Cluster(f"soak{os.getpid()}", folder / "disk", folder / "tmp")
    cluster.disk.mkdir(parents=True)
    cluster.temporary.mkdir()
    try:
        _connect(cluster.name)
        _run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(cluster.disk)])
        yield cluster
    finally:
        _remove(cluster)


def end(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it was faster
        os.kill(pid, number)


def _connect(name: str) -> None:
    for node in range(2):
        _ip("netns", "add", f"{name}-{node}")
    ends = (_DEVICE, "netns", f"{name}-0"), (_DEVICE, "netns", f"{name}-1")
    _ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
    for node, address in enumerate(_ADDRESSES):
        _ip("-n", f"{name}-{node}", "address", "add", f"{address}/24", "dev", _DEVICE)
        for device in ("lo", _DEVICE):
            _ip("-n", f"{name}-{node}", "link", "set", device, "up")


def _remove(cluster: Cluster) -> None:
    for node in range(2):
        if f"{cluster.name}-{node}" in _ip("netns", "list"):
            cluster.kill(node)
            time.sleep(0.5)  # a namespace in use only loses its name
            _ip("netns", "delete", f"{cluster.name}-{node}")
    if os.path.ismount(cluster.disk):
        _run(["umount", "--lazy", str(cluster.disk)])


def _ip(*words: str) -> str:
    return _run(["ip", *words])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
