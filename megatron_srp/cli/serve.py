"""`tools/serve.py`: an OpenAI-compatible endpoint with guarded answers."""

import argparse
import math
import os
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from megatron_srp.cli.generate import add_generation_arguments, load_from_args, options_from_args
from megatron_srp.errors import CommandParser, OutputError, UsageError
from megatron_srp.generation.engines.request import Options

if TYPE_CHECKING:
    from megatron_srp.generation.server.app import Settings
    from megatron_srp.generation.server.worker import Worker

KEY_VARIABLE = "SRP_API_KEY"


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The flags, checked; raises UsageError."""
    parser = CommandParser(
        description="Serve guarded answers over HTTP, as OpenAI's API does.",
        epilog=f"With {KEY_VARIABLE} in the environment, requests have to come with that key.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=8000, metavar="N", help="to listen on (default: 8000; 0 for any that is free)")
    add("--served-name", metavar="NAME", help="of the model, for clients (default: the folder's name)")
    add("--batch-size", type=int, default=16, metavar="N", help="answers generated at a time (default: 16)")
    add("--queue", type=int, default=64, metavar="N", help="answers that may wait besides (default: 64)")
    add("--timeout", type=float, default=120.0, metavar="S", help="for a request, with its waiting (default: 120)")
    add("--grace", type=float, default=30.0, metavar="S", help="for answers on their way at SIGTERM (default: 30)")
    add("--max-body-bytes", type=int, default=1 << 20, metavar="N", help="of a request at most (default: 1048576)")
    add("--allow-weaker", action="store_true", help="let requests weaken the guard, or switch it off")
    add_generation_arguments(parser)
    args = parser.parse_args(argv)
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.port < 1 << 16:
        raise UsageError(f"--port {args.port}: give 1 to 65535, or 0 for any that is free")
    for name, least in (("batch_size", 1), ("queue", 0), ("max_body_bytes", 1)):
        if getattr(args, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(args, name)}: give at least {least}")
    for name in ("timeout", "grace"):
        value = getattr(args, name)
        if not 0 < value < math.inf:
            raise UsageError(f"--{name} {value}: give a number of seconds above 0")
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise UsageError(f"tools/serve.py needs {package}, not installed here; pip install 'megatron-srp[serve]'")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before the model is loaded: a port that is taken is known at once.

    Raises:
        OutputError: when the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # else another server that loads its model could bind it, too
    except OSError as error:
        raise OutputError(f"--host {host} --port {port}: {error.strerror}; give another") from None
    return listener


def serve(listener: socket.socket, endpoint_app: object, worker: "Worker", grace_s: float, ready: str) -> None:
    """Serve until SIGTERM or SIGINT; answers on their way then have `grace_s` seconds."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(ready, flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            worker.drain(grace_s)
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        endpoint_app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=math.ceil(grace_s) + 5,
    )
    # uvicorn raises the signal again when it is done; by then that is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    worker.start()
    try:
        Server(config).run([listener])
    finally:
        worker.drain(0)
        worker.join(5)


def describe(listener: socket.socket, settings: "Settings") -> str:
    """What is served, where, and how it is guarded."""
    host, port = listener.getsockname()[:2]
    policy = settings.options.policy
    every = f", a forced reflection every {policy.reflect_every} tokens" if policy.reflect_every else ""
    weaker = ", which requests may weaken" if settings.allow_weaker else ""
    address = f"[{host}]" if ":" in host else host
    return (
        f"serving {settings.name} on http://{address}:{port}/v1: {policy.on_unsafe} at unsafe verdicts{every}{weaker}"
    )


def settings_from_args(args: argparse.Namespace, options: Options) -> "Settings":
    """What the operator has set."""
    from megatron_srp.generation.server.app import Settings

    name = args.served_name or Path(args.model).name or args.model
    key = os.environ.get(KEY_VARIABLE)
    if args.host not in ("127.0.0.1", "::1", "localhost") and not key:
        print(f"warning: {args.host} is open to the network, and {KEY_VARIABLE} sets no key", file=sys.stderr)
    return Settings(name, options, args.allow_weaker, args.timeout, args.max_body_bytes, key)


def main(argv: list[str]) -> None:
    args = parse_arguments(argv)
    options = options_from_args(args)
    settings = settings_from_args(args, options)
    listener = listen(args.host, args.port)
    model = load_from_args(args)

    from megatron_srp.generation.server.app import Endpoint
    from megatron_srp.generation.server.worker import Worker

    worker = Worker(model.generator, args.batch_size, args.queue)
    app = Endpoint(model, worker, settings).app
    serve(listener, app, worker, args.grace, describe(listener, settings))
