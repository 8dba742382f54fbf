"""A Hugging Face hub on loopback: the few routes that reading the files of a data set takes.

Faults can be set for the next requests, so that retries are tested.
"""

import hashlib
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Data sets by name.

    Attributes:
        files: by data set and path, the content.
        gated, private: names of data sets that want a token.
        faults: to be done to the next requests for content, first to last: a status, or "cut" for a body that breaks off.
        served: bytes sent, by path.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.faults: list[int | str] = []
        self.served: Counter[str] = Counter()
        self._history: dict[tuple[str, str], dict[str, bytes]] = {}
        self.url = ""

    def put(self, name: str, path: str, content: bytes) -> None:
        """Commit a file."""
        self.files.setdefault(name, {})[path] = content

    def commit(self, name: str) -> str:
        """The current commit of a data set, whose files stay available under it."""
        files = dict(self.files[name])
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self._history[name, commit] = files
        return commit

    def at(self, name: str, revision: str) -> dict[str, bytes] | None:
        self.commit(name)
        return self.files[name] if revision == "main" else self._history.get((name, revision))


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        api = parts[0] == "api"
        name = "/".join(parts[2:4] if api else parts[1:3])
        rest = parts[4:] if api else parts[3:]
        hidden = name in self.hub.private and "authorization" not in self.headers
        if name not in self.hub.files or hidden:
            self._error(401, "RepoNotFound", "Invalid username or password.")
        elif api:
            self._api(name, rest)
        else:
            self._content(name, rest[1], "/".join(rest[2:]))

    do_HEAD = do_POST = do_GET

    def _api(self, name: str, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        files = self.hub.at(name, revision)
        if files is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
        elif rest and rest[0] == "tree":
            self._json(_tree(files, "/".join(rest[2:]), "recursive=true" in self.path.lower()))
        else:
            self._json(
                {
                    "id": name,
                    "sha": self.hub.commit(name) if revision == "main" else revision,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
            )

    def _content(self, name: str, revision: str, path: str) -> None:
        content = (self.hub.at(name, revision) or {}).get(path)
        fault = self.hub.faults.pop(0) if self.hub.faults else None
        if name in self.hub.gated and "authorization" not in self.headers:
            self._error(401, "GatedRepo", "Access is restricted.")
        elif content is None:
            self._error(404, "EntryNotFound", "Entry not found")
        elif isinstance(fault, int):
            self._error(fault, "", "try again")
        else:
            self._send(path, content, cut=fault == "cut")

    def _send(self, path: str, content: bytes, cut: bool) -> None:
        whole, status = content, 200
        if given := self.headers.get("range"):
            first, _, last = given.removeprefix("bytes=").partition("-")
            content, status = content[int(first) : int(last) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{len(whole)}")
        self.end_headers()
        self.hub.served[path] += len(content)
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def _json(self, value) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _tree(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict]:
    below = {path: content for path, content in files.items() if not folder or path.startswith(f"{folder}/")}
    entries = {}
    for path, content in below.items():
        parts = path.removeprefix(f"{folder}/" if folder else "").split("/")
        for depth in range(1, len(parts)):
            if recursive or depth == 1:
                name = "/".join([*([folder] if folder else []), *parts[:depth]])
                entries[name] = {
                    "type": "directory",
                    "path": name,
                    "oid": hashlib.sha1(name.encode()).hexdigest(),
                    "size": 0,
                }
        if recursive or len(parts) == 1:
            entries[path] = _file(path, content)
    return [entries[name] for name in sorted(entries)]


def _file(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if path.endswith(".parquet"):  # as the hub keeps large files
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


@contextmanager
def running_hub():
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
