"""tools/gpu_check.sh on a machine that has PyTorch and no more, without a GPU: cut at a random moment (kill -9), the
finished figures are in its output folder, and no process and no temporary file is left."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.benchmarks.gpu import janitor
from tests.helpers.bare_machine import ROOT, make_machine, make_wheels

SHORT = ("--device", "cpu", "--steps", "2", "--documents", "20", "--minutes", "9")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Its Python, and the wheels of what it lacks."""
    folder = tmp_path_factory.mktemp("bare")
    return make_machine(folder / "machine"), make_wheels(folder / "wheels")


def start(machine: tuple[Path, Path], folder: Path, *argv: str) -> "subprocess.Popen[str]":
    (folder / "tmp").mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = kept | {"PYTHON": str(machine[0]), "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    command = [ROOT / "tools" / "gpu_check.sh", "--wheels", machine[1], "--out", folder / "out", *SHORT, *argv]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def wait_until(true: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert true()


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """What the output folder says of each stage."""
    file = folder / "out" / "gpu_check.json"
    stages = json.loads(file.read_text())["stages"] if file.exists() else []
    return {stage["stage"]: stage for stage in stages}


def status(folder: Path, stage: str) -> str:
    found: str = outcomes(folder).get(stage, {}).get("status", "")
    return found


def children(folder: Path, parent: int) -> list[int]:
    """Of the script, those that are part of the run."""
    found = []
    for pid in janitor.marked(str(folder / "tmp")):
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(pid)
    return found


def nothing_is_left(folder: Path) -> bool:
    return not janitor.marked(str(folder / "tmp")) and not list((folder / "tmp").iterdir())


@pytest.mark.exhaustive
def test_killed_at_a_random_moment(machine: tuple[Path, Path], tmp_path: Path) -> None:
    """The script itself, while a case runs or two ranks do."""
    run = start(machine, tmp_path, "--cases", "bf16,pp2")
    wait_until(lambda: status(tmp_path, "bf16") not in ("", "running") or run.poll() is not None, 500)
    time.sleep(random.Random(time.time_ns()).uniform(0, 20))
    was_running = run.poll() is None
    run.kill()
    output, _ = run.communicate()
    wait_until(lambda: nothing_is_left(tmp_path), 60)
    found = outcomes(tmp_path)["bf16"]
    assert found["status"] == "ok", output
    assert found["made"]["transformer_impl"] == "local"
    assert len(found["losses"]) == 2
    assert len(list((tmp_path / "out").iterdir())) <= 8
    assert was_running or status(tmp_path, "pp2") == "ok", output


@pytest.mark.exhaustive
def test_its_python_process_is_killed_while_it_begins(machine: tuple[Path, Path], tmp_path: Path) -> None:
    run = start(machine, tmp_path, "--cases", "plain")
    time.sleep(random.Random(time.time_ns()).uniform(0, 15))
    wait_until(lambda: children(tmp_path, run.pid), 120)
    for pid in children(tmp_path, run.pid):  # the check, which starts the others; before it pip
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    output, _ = run.communicate(timeout=60)
    assert run.returncode in (1, 2), output
    assert "error: " in output
    assert nothing_is_left(tmp_path)
