"""`srp serve`: an OpenAI-compatible endpoint with guarded answers."""

import argparse
import json
import math
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.cli import generation_flags
from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import SrpError, UsageError

if TYPE_CHECKING:
    from megatron_srp.generation.engines.request import Options
    from megatron_srp.generation.server.access import Access
    from megatron_srp.generation.server.audit import AuditLog
    from megatron_srp.generation.server.settings import Client, Settings

KEY_VARIABLE = "SRP_API_KEY"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="srp serve",
        description="Serve guarded answers over HTTP, with OpenAI's API.",
        epilog=f"With {KEY_VARIABLE} in the environment, requests must send it as a Bearer token.",
        old_names=generation_flags.OLD_NAMES,
    )
    group = parser.add_argument_group("server")
    add = group.add_argument
    add(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="listen on this address (default: 127.0.0.1, local only)"
    )
    add("--port", type=int, default=8000, metavar="N", help="port to listen on; 0 for any free port (default: 8000)")
    add("--served-name", metavar="NAME", help="the model's name for clients (default: the name of its folder)")
    generation_flags.add_batch_flags(group)
    add(
        "--queue",
        type=int,
        default=64,
        metavar="N",
        help="maximum answers waiting for a place in the batch; more are refused",
    )
    add("--timeout", type=float, default=120.0, metavar="S", help="maximum seconds per request, waiting included")
    add(
        "--grace",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds in which running answers may finish after SIGTERM",
    )
    add("--max-body-bytes", type=int, default=1 << 20, metavar="N", help="maximum bytes per request")
    add("--allow-weaker", action="store_true", help="let requests weaken the guard or switch it off")
    add(
        "--completions",
        action="store_true",
        help="offer /v1/completions, where a client can write the beginning of an answer: the prefill attack",
    )
    add(
        "--keys",
        type=Path,
        metavar="FILE",
        help="YAML file of API keys, each with limits and a policy of its own; read again on SIGHUP (default: none)",
    )
    add("--max-connections", type=int, default=256, metavar="N", help="maximum open connections; more are closed")
    add("--max-choices", type=int, default=8, metavar="N", help="maximum answers per request (its `n`)")
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web origin whose pages may send requests, such as https://example.org; may be repeated (default: none)",
    )
    add(
        "--audit-log",
        type=Path,
        metavar="FILE",
        help="append a line of JSON to this file for each answer (default: none)",
    )
    add("--audit-text", action="store_true", help="write the texts of prompts and answers to the audit log too")
    generation_flags.add_generation_flags(parser)
    return parser


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The flags, checked; raises UsageError."""
    args = build_parser().parse_args(argv)
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.port < 1 << 16:
        raise UsageError(f"--port {args.port}: pass 1 to 65535, or 0 for any free port")
    require_at_least(1, args, "--max-body-bytes", "--max-connections", "--max-choices")
    generation_flags.limits_from_args(args)
    if args.audit_text and not args.audit_log:
        raise UsageError("--audit-text needs --audit-log FILE")
    require_at_least(0, args, "--queue")
    for name in ("timeout", "grace"):
        value = getattr(args, name)
        if not 0 < value < math.inf:
            raise UsageError(f"--{name} {value}: pass a number of seconds above 0")


def describe(listener: socket.socket, settings: "Settings") -> str:
    """What is served, where, and how it is guarded."""
    host, port = listener.getsockname()[:2]
    policy = settings.client.options.policy
    every = f", a forced reflection every {policy.reflect_every} tokens" if policy.reflect_every else ""
    weaker = ", which requests may weaken" if settings.client.allow_weaker else ""
    address = f"[{host}]" if ":" in host else host
    return (
        f"serving {settings.name} on http://{address}:{port}/v1: {policy.on_unsafe} at unsafe verdicts{every}{weaker}"
    )


def example_request(listener: socket.socket, settings: "Settings", keyed: bool) -> str:
    """A request to try; KEY stands for one of `--keys`."""
    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    name = f"'${KEY_VARIABLE}" if os.environ.get(KEY_VARIABLE) else "KEY'"
    key = f" -H 'Authorization: Bearer {name}" if keyed else ""
    body = json.dumps({"model": settings.name, "messages": [{"role": "user", "content": "Hello"}]})
    data = f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    return f"curl http://{address}:{port}/v1/chat/completions{key} {data}"


def settings_from_args(args: argparse.Namespace, options: "Options") -> "Settings":
    """The operator's settings."""
    from megatron_srp.generation.server.settings import Client, Settings

    name = args.served_name or Path(args.model).name or args.model
    client = Client(options, allow_weaker=args.allow_weaker, completions=args.completions, max_choices=args.max_choices)
    return Settings(name, client, args.timeout, args.max_body_bytes, tuple(args.cors_origin))


def access_of(args: argparse.Namespace, settings: "Settings") -> "Access":
    """Who may ask."""
    from megatron_srp.generation.server.access import Access

    access = Access(_keys(args, settings), settings.client)
    if args.keys:
        signal.signal(signal.SIGHUP, lambda *_: _reload(access, args, settings))
    if args.host not in ("127.0.0.1", "::1", "localhost") and access.open:
        print(f"warning: {args.host} is open to the network, and {KEY_VARIABLE} sets no key", file=sys.stderr)
    return access


def _keys(args: argparse.Namespace, settings: "Settings") -> dict[str, "Client"]:
    """The clients with keys: that of the environment, and those of --keys."""
    from megatron_srp.generation.server.keys import read_keys

    own = os.environ.get(KEY_VARIABLE)
    return ({own: settings.client} if own else {}) | (read_keys(args.keys, settings.client) if args.keys else {})


def _reload(access: "Access", args: argparse.Namespace, settings: "Settings") -> None:
    """Read the keys again; where that fails, the old ones stay valid."""
    try:
        found = _keys(args, settings)
    except SrpError as error:
        print(f"warning: {error}; the old keys stay valid", file=sys.stderr, flush=True)
        return
    access.replace(found)
    print(f"{args.keys}: {len(found)} keys", file=sys.stderr, flush=True)


def audit_log(args: argparse.Namespace, decode: Callable[[Sequence[int]], str]) -> "AuditLog | None":
    """The audit log, if there is to be one; a file that cannot be written is reported before the model is loaded."""
    from megatron_srp.generation.server.audit import AuditLog

    return AuditLog(args.audit_log, decode if args.audit_text else None) if args.audit_log else None


def main(argv: list[str]) -> None:
    """Parse `argv`, load the model, and serve until stopped."""
    args = parse_arguments(argv)
    import prometheus_client  # noqa: F401  (report a missing package before spending minutes on loading a model)
    import uvicorn  # noqa: F401

    from megatron_srp.generation.server.app import Endpoint
    from megatron_srp.generation.server.connections import require_open_files
    from megatron_srp.generation.server.process import listen, serve
    from megatron_srp.generation.server.worker import Worker

    require_open_files(args.max_connections)
    own = generation_flags.settings_from_args(args, args.model)
    settings = settings_from_args(args, generation_flags.options_from_args(args, own))
    access = access_of(args, settings)
    audit = audit_log(args, lambda tokens: model.decode(tokens))
    listener = listen(args.host, args.port)
    model = generation_flags.load_from_args(args, own)
    worker = Worker(model.generator, generation_flags.limits_from_args(args), args.queue)
    app = Endpoint(model, worker, settings, access, audit).app

    def ready() -> None:
        print(describe(listener, settings))
        next_step(example_request(listener, settings, not access.open))
        sys.stdout.flush()

    serve(listener, app, worker, args.grace, ready, args.max_connections)
