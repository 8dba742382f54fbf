"""A real vLLM with the guard in it, where an environment has one: SRP_VLLM_PYTHON names its interpreter.

The environment needs vLLM 0.32 and this package (`pip install --no-deps -e .` there is enough, with pyarrow and the like).
On a CPU, attention heads need a width of 32 at least.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ports import free_port
from tests.helpers.served import KEY, Served

VARIABLE = "SRP_VLLM_PYTHON"
FLAGS = ("--enforce-eager", "--dtype", "float32", "--max-num-seqs", "32", "--served-model-name", "tiny")
CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def vllm_python() -> str:
    """The interpreter of that environment; skips the test where there is none."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} does not name the Python of an environment with vLLM 0.32")
    return python


def run_in_vllm(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run that interpreter to its end."""
    own = os.environ | CPU | (environment or {})
    return subprocess.run([vllm_python(), *arguments], capture_output=True, text=True, env=own, check=False)


class ServedByEngine(Served):
    """`srp serve --engine vllm`."""

    def __init__(self, model: Path, *flags: str, key: str = "") -> None:
        self.model = model
        command = [vllm_python(), "-m", "megatron_srp", "serve", "--engine", "vllm", "--model", str(model)]
        self._start([*command, "--port", "0", "--engine-option", "enforce_eager=true", *flags], CPU, key)

    def _first_line(self) -> str:
        """The server's own: vLLM may write to stdout as well."""
        return next(line for line in self.process.stdout if line.startswith("serving"))

    def __exit__(self, *_) -> None:
        self.process.terminate()  # it ends its engine's processes
        self.process.wait()
        self.process.stdout.close()


class VLLMServed(Served):
    """`vllm serve`, by its module: the command is missing from the CPU's package.

    Args:
        guard: SRP_GUARD.
    """

    def __init__(self, model: Path, guard: dict[str, Any], *flags: str) -> None:
        self._port = free_port()
        where = ("--host", "127.0.0.1", "--port", str(self._port), "--api-key", KEY)
        parts = ("--reasoning-parser", "srp", "--middleware", "megatron_srp.generation.vllm.middleware.GuardMiddleware")
        command = [vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        self._key = KEY
        self.process = subprocess.Popen(
            [*command, *where, *parts, *FLAGS, *flags],
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr,
            text=True,
            env=os.environ | CPU | {"SRP_GUARD": json.dumps(guard)},
            start_new_session=True,
        )

    def _first_line(self) -> str:
        deadline = time.monotonic() + 900
        while self.process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as connection:
                if not connection.connect_ex(("127.0.0.1", self._port)):
                    return f"serving on http://127.0.0.1:{self._port}/v1: "
            time.sleep(0.5)
        raise AssertionError(f"vLLM has not started: {self.process.returncode}")

    def __exit__(self, *_) -> None:
        self.process.terminate()  # it ends its engine's processes
        self.process.wait()
