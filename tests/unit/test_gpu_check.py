"""gpu_check without a GPU: its plan, what it reads from a log, what it concludes, and a rehearsal on the CPU."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srp.benchmarks import gpu_check, gpu_report
from megatron_srp.benchmarks.gpu_report import CaseResult
from megatron_srp.training.checks.devices import Devices

H200 = Devices(1, "NVIDIA H200", (9, 0), 139 * 2**30, (13, 0))
A100 = Devices(1, "NVIDIA A100-SXM4-80GB", (8, 0), 80 * 2**30, (13, 0))
ROOT = Path(__file__).parents[2]


def options(*argv: str) -> argparse.Namespace:
    parsed = gpu_check.parse(list(argv))
    parsed.transformer_engine = True
    return parsed


def log_of(times: list[float], losses: list[float]) -> str:
    lines = [
        f" [2026-11-24 15:18:54.1] iteration {i:8d}/{len(times):8d} | consumed samples: {8 * i:12d} | elapsed time per "
        f"iteration (ms): {ms:.1f} | throughput per GPU (TFLOP/s/GPU): 400.0 | MFU (of bf16 peak): 40.4% | learning "
        f"rate: 5.0E-04 | global batch size:     8 | lm loss: {loss:.6E} | loss scale: 1.0 |"
        for i, (ms, loss) in enumerate(zip(times, losses, strict=True), 1)
    ]
    lines.insert(1, "[Rank 0] (after 1 iterations) memory (MB) | allocated: 100.0 | max allocated: 40960.00 | reserved")
    return "\n".join(lines)


def result(name: str, step_ms: float, loss: float, data: str = "reflected") -> CaseResult:
    log = log_of([9000.0] + [step_ms] * 9, [5.0] * 8 + [loss] * 2)
    return gpu_report.read_log(name, name, data, log, 0, 10)


@pytest.mark.parametrize(
    ("devices", "engine", "skipped"),
    [
        (H200, True, set()),
        (dataclasses.replace(H200, cuda=(12, 8)), True, {"fp8-blockwise"}),
        (H200, False, {"fp8-tensorwise", "fp8-delayed", "fp8-blockwise"}),
        (A100, True, {"fp8-tensorwise", "fp8-delayed", "fp8-blockwise"}),
    ],
)
def test_the_plan_fits_the_machine(devices: Devices, engine: bool, skipped: set[str]) -> None:
    cases = gpu_check.plan(devices, engine)
    assert {case.name for case in cases if case.skip} == skipped
    assert cases[0].name == "bf16"
    assert ("--transformer-impl" in cases[0].flags) == (not engine)
    assert any("without Transformer Engine" in case.name for case in cases) == engine


def test_a_case_is_the_real_job() -> None:
    data = {"reflected": Path("r"), "plain": Path("p")}
    case = gpu_check.plan(H200, True)[1]
    command = gpu_check.command(case, options("--layers", "12"), data)
    assert command[1:3] == ["-m", "megatron_srp.training.pretrain"]
    assert " ".join(command).count("--srp-preset 1p7b --srp-precision fp8-tensorwise") == 1
    assert command[command.index("--num-layers") + 1] == "12"
    assert command[command.index("--make-vocab-size-divisible-by") + 1] == "49152"


def test_a_log_is_read() -> None:
    found = result("bf16", 400.0, 4.5)
    assert (found.status, found.step_ms, found.batch, found.max_allocated_gib) == ("ok", 400.0, 8, 40.0)
    assert found.losses[-1] == 4.5
    figures = gpu_report.throughput(found, options(), 989.4e12)
    assert figures["tokens_per_s"] == pytest.approx(8 * 2048 / 0.4)
    assert figures["mfu"] == pytest.approx(8 * 2048 / 0.4 * 10.87e9 / 989.4e12, rel=1e-3)


def test_runs_that_did_not_end_well() -> None:
    stopped = gpu_report.read_log("bf16", "bf16", "plain", log_of([400.0] * 6, [5.0] * 6), None, 50)
    assert (stopped.status, stopped.reason) == ("timeout", "stopped at its limit after 6 of 50 steps")
    failed = gpu_report.read_log("bf16", "bf16", "plain", "a\ntorch.OutOfMemoryError: CUDA\nb", 1, 50)
    assert (failed.status, failed.reason, failed.step_ms) == ("failed", "torch.OutOfMemoryError: CUDA", None)
    assert gpu_report.read_log("x", "bf16", "plain", "", 1, 5).reason == "exit code 1, see its log"


def test_conclusions_and_goals() -> None:
    results = [
        result("bf16", 400.0, 4.5),
        result("fp8-tensorwise", 300.0, 4.51),
        result("fp8-delayed", 380.0, 4.6),
        CaseResult("fp8-blockwise", "fp8-blockwise", "reflected", "skipped", "no time left"),
        result("bf16, plain shards", 398.0, 4.4, "plain"),
        result("bf16, sidecar view", 410.0, 4.5, "view"),
    ]
    found = gpu_report.compare(results, options(), 989.4e12)
    assert found["fp8_speedup"] == pytest.approx(4 / 3)
    assert found["loss_difference fp8-tensorwise"] == pytest.approx(0.01)
    assert found["data_overhead"] == pytest.approx(2 / 398)
    assert gpu_report.goals(found) == [
        ("bf16 MFU at least 45%", "45.0%", "met"),
        ("FP8 at least 1.25x bf16", "1.33x", "met"),
        ("reflected within 1% of plain", "+0.5%", "met"),
        ("sidecar view within 1% of plain", "+3.0%", "missed"),
    ]
    page = gpu_report.markdown(results, options(), H200)
    assert "| fp8-blockwise | skipped: no time left | | | | | |" in page
    assert "| bf16 | 400.0 (400.0 to 400.0) | 40,960 |" in page
    assert gpu_report.goals({})[0] == ("bf16 MFU at least 45%", "-", "not measured")
    slow = gpu_report.compare([result("bf16", 500.0, 4.5), result("fp8-delayed", 480.0, 4.5)], options(), 989.4e12)
    assert [verdict for _, _, verdict in gpu_report.goals(slow)] == ["missed", "missed", "not measured", "not measured"]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, "-m", "megatron_srp.benchmarks.gpu_check", "--out", tmp_path, "--dry-run"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no GPU is visible; rehearse with --device cpu" in done.stderr


@pytest.mark.exhaustive
def test_a_rehearsal_on_the_cpu(tmp_path: Path) -> None:
    """The real runs through tools/gpu_check.sh; a case that is killed at its limit leaves the others."""
    import os

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHON": sys.executable}
    command: list[str | Path] = [
        ROOT / "tools" / "gpu_check.sh",
        "--out",
        tmp_path,
        "--device",
        "cpu",
        "--preset",
        "debug",
    ]
    command += ["--steps", "6", "--documents", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [case["status"] for case in content["cases"]] == [
        "ok",
        "skipped",
        "skipped",
        "skipped",
        *["ok"] * (1 + gpu_check.HAS_VIEW),
    ]
    assert abs(content["comparison"]["data_overhead"]) < 5
    assert "its figures mean nothing" in (tmp_path / "gpu_check.md").read_text()
    done = subprocess.run([*command, "--minutes", "0.02"], capture_output=True, text=True, timeout=400, env=environment)
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert {case["status"] for case in content["cases"]} == {"timeout", "skipped"}
