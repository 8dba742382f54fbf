"""Ports for the servers and launchers that a test starts by a number."""

import os
import socket
from itertools import count

FIRST, PER_PROCESS = 20000, 100
_taken = count()


def free_port() -> int:
    """A port on loopback that stays free until its user listens on it.

    The system hands out no port from 20000 to 29999 (ip_local_port_range) to those that ask for any, as gloo's ranks
    and other tests' servers do. Between two looks such a port has been another's, and whoever came to meet there
    waited for minutes. Each process of a test run has its own hundred.
    """
    while True:
        port = FIRST + os.getpid() % PER_PROCESS * PER_PROCESS + next(_taken) % PER_PROCESS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
