"""A small HTTP server on loopback that misbehaves in all the ways that endpoints do, and speaks
`/v1/completions` and `/v1/chat/completions` otherwise."""

import contextlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict], Any]


class Endpoint:
    """Serves from a thread.

    Args:
        answer: the body to a request's body, for a POST that meets no fault.

    Attributes:
        faults: what happens to the next requests, one after the other: an HTTP status, (status, headers),
            "garbage", "reset", "hang", "drip" or None for nothing.
        requests: bodies of all POSTs; `headers` of the last.
    """

    def __init__(self, answer: Answer, model: str = "tiny", max_model_len: int | None = None, port: int = 0) -> None:
        self.answer, self.model = answer, model
        self.faults: deque[Any] = deque()
        self.fault: Any = None
        self.requests: list[dict] = []
        self.headers: dict[str, str] = {}
        self.most_at_once = self.at_once = 0
        self.stopping = threading.Event()
        self.connections: list[socket.socket] = []
        self.lock = threading.Lock()
        card = {"id": model, "object": "model"} | ({"max_model_len": max_model_len} if max_model_len else {})
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                endpoint.connections.append(self.connection)

            def do_GET(self):
                if not endpoint._misbehave(self):
                    endpoint._send(self, 200, {"object": "list", "data": [card]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    endpoint.requests.append(body)
                    endpoint.headers = dict(self.headers)
                    endpoint.at_once += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
                answer: Any = None
                try:
                    if not endpoint._misbehave(self):
                        answer = endpoint.answer(body)
                finally:
                    with endpoint.lock:  # before the answer is sent, which the next request may follow at once
                        endpoint.at_once -= 1
                if answer is not None:
                    endpoint._send(self, *(answer if isinstance(answer, tuple) else (200, answer)))

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that went away, as tests make them do
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> "Endpoint":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:  # those kept alive would be served on
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _send(handler, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def _misbehave(self, handler) -> bool:
        with self.lock:
            fault = self.faults.popleft() if self.faults else self.fault
        if fault is None:
            return False
        if isinstance(fault, int | tuple):
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            key = handler.headers.get("Authorization", "")
            self._send(handler, status, {"error": {"message": f"no {status} today, {key}"}}, headers)
        elif fault == "garbage":
            self._send(handler, 200, b"<html>\x00 {{{")
        elif fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            handler.connection.close()
        elif fault == "hang":
            handler.close_connection = True
            self.stopping.wait(30)
        elif fault == "drip":
            handler.close_connection = True
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            while not self.stopping.is_set():
                try:
                    handler.wfile.write(b" ")
                except OSError:
                    break
                time.sleep(0.02)
        return True
