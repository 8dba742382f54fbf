"""A hub on loopback with one repository, for huggingface_hub: its files, their list, and nothing else."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


@contextmanager
def small_hub(name: str, files: Path) -> Iterator[dict[str, str]]:
    """Serves the folder `files` as the model `name`; yields the environment of a process that uses this hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            path = self.path.partition("?")[0]
            file = files / path.rpartition("/")[2]
            self._body = b""
            if path.startswith(f"/api/models/{name}/tree/"):
                entries = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in _files(files)
                ]
                self._answer(json.dumps(entries).encode(), "application/json")
            elif path.startswith(f"/api/models/{name}"):
                siblings = [{"rfilename": file.name} for file in _files(files)]
                self._answer(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), "application/json")
            elif path.startswith(f"/{name}/resolve/") and file.is_file():
                content = file.read_bytes()
                self._answer(content, "text/plain", ETag=f'"{sha1(content).hexdigest()}"', **{"X-Repo-Commit": COMMIT})
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(self._body)

        def _answer(self, body: bytes, kind: str, **headers: str) -> None:
            self._body = body
            self.send_response(200)
            for key, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | headers).items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_ETAG_TIMEOUT": "600",
            "HF_HUB_DOWNLOAD_TIMEOUT": "600",
        }
    finally:
        server.shutdown()
        server.server_close()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
