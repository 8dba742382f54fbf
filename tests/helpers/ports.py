"""Ports for the servers and launchers that a test starts by a number."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

PORTS = range(20000, 30000)
_locks: dict[int, int] = {}  # what this process has taken, with the open file that says so until it ends


def free_port() -> int:
    """A port that stays free until its user listens on it.

    The system hands out none of `PORTS` (ip_local_port_range) to those that ask for any, as gloo's ranks and other
    tests' servers do. Between two looks such a port has been another's, and whoever came to meet there waited for
    minutes. Nor does another process of a test run take it: each port has a file that its taker keeps locked.
    """
    folder = Path(tempfile.gettempdir()) / f"megatron-srp-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        port = random.SystemRandom().choice(PORTS)
        descriptor = os.open(folder / str(port), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("", port))
        except OSError:
            os.close(descriptor)
            continue
        _locks[port] = descriptor
        return port


def give_back(port: int) -> None:
    """For a process that takes many: nobody uses this one any more."""
    os.close(_locks.pop(port))
