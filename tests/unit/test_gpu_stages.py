"""A plan's stages: their time, what is saved of them and when, and that no process is left of a run that is killed."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.benchmarks.gpu import check as gpu_check
from megatron_srp.benchmarks.gpu import janitor, output, processes, stages, training
from megatron_srp.benchmarks.gpu.options import parse
from megatron_srp.benchmarks.gpu.report import CaseResult
from megatron_srp.benchmarks.gpu.stages import Check, Outcome, Stage

# Starts a process in a session of its own, as a server or a worker pool may be; both sleep.
FAMILY = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "
    "print('started', flush=True); time.sleep(600)"
)


def make_check(folder: Path, seconds: float = 600.0, *argv: str) -> Check:
    options = parse(["--out", str(folder / "out"), *argv])
    options.out.mkdir(parents=True)
    check = Check(options, folder / "run", time.monotonic() + seconds)
    check.logs.mkdir(parents=True)
    check.save = lambda: output.save(check, training, argv)
    return check


def saved(check: Check) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((check.options.out / "gpu_check.json").read_text(), parse_constant=refuse)
    return content


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_a_stage_runs_if_its_least_time_is_left(tmp_path: Path) -> None:
    limits = {}

    def work(check: Check, limit_s: float) -> Outcome:
        limits[check.stage] = limit_s
        return Outcome(check.stage, "ok")

    check = make_check(tmp_path, 10_000.0)
    for stage in (Stage("long", 20_000, 30_000, work), Stage("short", 20, 30, work), Stage("rest", 20, 50_000, work)):
        gpu_check.run_stage(stage, check)
    assert [outcome.status for outcome in check.outcomes] == ["skipped", "ok", "ok"]
    assert check.outcomes[0].reason == "no time left; it needs 20000 s"
    assert limits["short"] == 30
    assert 5_000 < limits["rest"] < 10_000


def test_a_stage_that_fails_leaves_the_others(tmp_path: Path) -> None:
    check = make_check(tmp_path)
    gpu_check.run_stage(Stage("bug", 0, 9, lambda check, limit_s: Outcome("bug", str(1 // 0))), check)
    gpu_check.run_stage(stages.command_stage("fails", 0, 600, [sys.executable, "-c", "raise ValueError('no')"]), check)
    gpu_check.run_stage(stages.command_stage("works", 0, 600, [sys.executable, "-c", "print(1)"]), check)
    found = [(stage["status"], stage["reason"]) for stage in saved(check)["stages"]]
    assert found == [
        ("failed", "ZeroDivisionError: integer division or modulo by zero"),
        ("failed", "ValueError: no"),
        ("ok", ""),
    ]
    known = {"fails": Stage("fails", 0, 1, lambda *_: Outcome("", ""), may_fail=True)}
    assert [gpu_check.has_failed(outcome, known) for outcome in check.outcomes] == [True, False, False]


def test_a_command_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    check = make_check(tmp_path)
    gpu_check.run_stage(stages.command_stage("family", 0, 2, [sys.executable, "-c", FAMILY]), check)
    assert (check.outcomes[0].status, check.outcomes[0].reason) == ("timeout", "stopped at its limit")
    assert "started" in (check.logs / "family.log").read_text()
    assert janitor.marked(str(check.folder)) == []


def test_what_is_known_is_saved(tmp_path: Path) -> None:
    """Three files, and the figures of a diverged run in them as JSON that any reader takes."""
    check = make_check(tmp_path)
    check.note(CaseResult("bf16", "running", "3 of 40 steps"))
    check.note(CaseResult("bf16", "failed", losses=[5.0, float("nan"), float("inf")]))
    (check.logs / "bf16.log").write_text("a\n" * 10)
    (check.logs / "long.log").write_bytes(b"x" * (output._LOG_BYTES + 1))
    check.save()
    assert [stage["losses"] for stage in saved(check)["stages"]] == [[5.0, "nan", "inf"]]
    assert sorted(path.name for path in check.options.out.iterdir()) == ["gpu_check.json", "gpu_check.md", "logs.tgz"]
    with tarfile.open(check.options.out / "logs.tgz") as archive:
        sizes = {entry.name: entry.size for entry in archive}
    assert sizes == {"logs/bf16.log": 20, "logs/long.log": output._LOG_BYTES}


def test_a_disk_that_fills_up_costs_the_files_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = make_check(tmp_path)
    check.options.out.rmdir()
    gpu_check.run_stage(Stage("works", 0, 9, lambda check, limit_s: Outcome("works", "ok")), check)
    assert capsys.readouterr().out.count("warning: ") == 3
    assert check.outcomes[0].status == "ok"


def test_a_bug_in_a_report_costs_that_report_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = make_check(tmp_path)
    for name in ("markdown", "comparison"):
        monkeypatch.setattr(training, name, lambda check: 1 // 0)
    gpu_check.run_stage(Stage("works", 0, 9, lambda check, limit_s: Outcome("works", "ok")), check)
    assert [stage["status"] for stage in saved(check)["stages"]] == ["ok"]
    assert sorted(path.name for path in check.options.out.iterdir()) == ["gpu_check.json", "logs.tgz"]


def test_a_running_case_is_saved_with_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SAVE_EVERY_S", 0.2)
    check = make_check(tmp_path)
    seen: list[dict[str, Any]] = []

    def save() -> None:
        output.save(check, training, ())
        seen.extend(saved(check)["stages"])

    check.save = save
    check.run(
        [sys.executable, "-c", "import time; time.sleep(1)"],
        "log",
        60,
        lambda: check.note(CaseResult("bf16", "running", step_ms=400.0)),
    )
    assert {(stage["status"], stage["step_ms"]) for stage in seen} == {("running", 400.0)}


KILLED = """
import sys, time
from pathlib import Path
from megatron_srp.benchmarks.gpu import janitor, start
from megatron_srp.benchmarks.gpu.stages import Check
from megatron_srp.benchmarks.gpu.options import parse

with start.temporary_folder() as folder:
    print(folder, flush=True)
    check = Check(parse([]), folder, time.monotonic() + 600)
    check.logs.mkdir()
    check.run([sys.executable, "-c", sys.argv[1]], "log", 600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_of_a_run_that_is_killed(tmp_path: Path) -> None:
    """Neither a child, nor a child's child in a session of its own, nor the temporary folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    run = subprocess.Popen([sys.executable, "-c", KILLED, FAMILY], stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout is not None
    folder = Path(run.stdout.readline().strip())
    deadline = time.monotonic() + 600
    while len(janitor.marked(str(folder))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(janitor.marked(str(folder))) == 2
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 600
    while (janitor.marked(str(folder)) or folder.exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert janitor.marked(str(folder)) == []
    assert not folder.exists()
