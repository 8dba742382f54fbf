"""`srp serve` as a process, with OpenAI's own client."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.helpers.commands import SRP

openai = pytest.importorskip("openai")

KEY = "sk-of-the-tests"


class Served:
    """A server process."""

    def __init__(self, model: Path, *flags: str, key: str = "") -> None:
        self.model = model
        command = [*SRP, "serve", "--model", str(model), "--device", "cpu", "--port", "0", *flags]
        self._start(command, {"OMP_NUM_THREADS": "1"}, key)

    def _start(self, command: list[str], variables: dict[str, str], key: str) -> None:
        own = os.environ | variables | {"SRP_API_KEY": key}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own)
        self._key = key

    def wait(self) -> "Served":
        self.ready = self._first_line()
        self.url = self.ready.partition(" on ")[2].partition(": ")[0]
        self.client = openai.OpenAI(base_url=self.url, api_key=self._key or "none", max_retries=0, timeout=600)
        self.http = httpx.Client(base_url=self.url.removesuffix("/v1"), trust_env=False, timeout=600)
        return self

    def _first_line(self) -> str:
        return self.process.stdout.readline()

    def post(self, content: bytes | dict, path: str = "/v1/chat/completions", **headers) -> httpx.Response:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.http.post(path, content=content, headers=headers)

    def counts(self) -> tuple[int, int]:
        found = self.http.get("/health", headers={"Authorization": f"Bearer {self._key or 'none'}"}).json()
        return found["running"], found["waiting"]

    def until(self, running: int, waiting: int = 0) -> None:
        deadline = time.monotonic() + 600  # tests may share a busy machine
        while self.counts() != (running, waiting):
            assert time.monotonic() < deadline, self.counts()
            time.sleep(0.02)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def say(words: str) -> list[dict]:
    return [{"role": "user", "content": f"say: {words}"}]


def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
