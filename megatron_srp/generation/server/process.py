"""The process: the socket it listens on, uvicorn, and how it ends."""

import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from megatron_srp.errors import OutputError
from megatron_srp.generation.server.connections import WAITING, uvicorn_settings
from megatron_srp.generation.server.worker import Worker


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before the model is loaded: an occupied port is reported at once.

    Raises:
        OutputError: when the address cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # else another server that is loading its model could bind it too
    except OSError as error:
        raise OutputError(f"--host {host} --port {port}: {error.strerror}; pass another") from None
    return listener


def serve(
    listener: socket.socket,
    endpoint_app: object,
    worker: Worker,
    grace_s: float,
    ready: Callable[[], None],
    connections: int,
) -> None:
    """Serve until SIGTERM or SIGINT; running answers then have `grace_s` seconds, while /health and /ready are answered
    and new requests refused. A second signal ends everything at once. `ready` is called when it listens."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listener.listen(WAITING)  # uvicorn has one number for this and for how many it accepts at once
            ready()

        async def on_tick(self, counter: int) -> bool:
            self.should_exit |= worker.done
            return await super().on_tick(counter)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if worker.closing:
                super().handle_exit(sig, frame)
            worker.drain(grace_s)

    config = uvicorn.Config(
        endpoint_app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=5,  # to send what is left of the answers
        **uvicorn_settings(connections),
    )
    # uvicorn raises a second signal again when it is done; by then that is not a failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    worker.start()
    try:
        Server(config).run([listener])
    finally:
        worker.drain(0)
        worker.join(5)
