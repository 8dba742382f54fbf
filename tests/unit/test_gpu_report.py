"""What gpu_check reads from a log, and what it concludes."""

import argparse
from collections.abc import Sequence

import pytest

from megatron_srp.benchmarks.gpu import options as gpu_options
from megatron_srp.benchmarks.gpu import report
from megatron_srp.benchmarks.gpu.report import CaseResult

H200 = "NVIDIA H200"
PEAK = 989.4e12
MADE = "  gradient_accumulation_fusion .................... {}\n  transformer_impl .... transformer_engine\n"


def options(*argv: str) -> argparse.Namespace:
    return gpu_options.parse([*argv, "--micro-batch", "4"])


def log_of(times: list[float], losses: Sequence[float | str]) -> str:
    lines = [
        f" [2026-11-24 15:18:54.1] iteration {i:8d}/{len(times):8d} | consumed samples: {8 * i:12d} | elapsed time per "
        f"iteration (ms): {ms:.1f} | throughput per GPU (TFLOP/s/GPU): 400.0 | MFU (of bf16 peak): 40.4% | learning "
        f"rate: 5.0E-04 | global batch size:     8 | lm loss: {float(loss):.6E} | loss scale: 1.0 |"
        for i, (ms, loss) in enumerate(zip(times, losses, strict=True), 1)
    ]
    lines.insert(1, "[Rank 0] (after 1 iterations) memory (MB) | allocated: 100.0 | max allocated: 40960.00 | reserved")
    return "\n".join(lines)


def result(name: str, step_ms: float, loss: float, data: str = "reflected") -> CaseResult:
    log = MADE.format(True) + log_of([9000.0] + [step_ms] * 9, [5.0] * 8 + [loss] * 2)
    precision = name if name.startswith("fp8") else "bf16"
    return report.read_log(name, precision, data, log, 0, 10)


def test_a_log_is_read() -> None:
    found = result("bf16", 400.0, 4.5)
    assert (found.status, found.step_ms, found.batch, found.max_allocated_gib) == ("ok", 400.0, 8, 40.0)
    assert found.losses[-1] == 4.5
    assert found.way == "Transformer Engine, fused weight gradients, unfused loss"
    figures = report.throughput(found, options(), PEAK)
    assert figures["tokens_per_s"] == pytest.approx(8 * 2048 / 0.4)
    assert figures["mfu"] == pytest.approx(8 * 2048 / 0.4 * 10.87e9 / PEAK, rel=1e-3)


def test_runs_that_did_not_end_well() -> None:
    stopped = report.read_log("bf16", "bf16", "plain", log_of([400.0] * 6, [5.0] * 6), None, 50)
    assert (stopped.status, stopped.reason) == ("timeout", "stopped at its limit after 6 of 50 steps")
    failed = report.read_log("bf16", "bf16", "plain", "a\ntorch.OutOfMemoryError: CUDA\nb", 1, 50)
    assert (failed.status, failed.reason, failed.step_ms) == ("failed", "torch.OutOfMemoryError: CUDA", None)
    assert report.read_log("x", "bf16", "plain", "", 1, 5).reason == "exit code 1, see its log"
    short = report.read_log("x", "bf16", "plain", log_of([400.0] * 3, [5.0] * 3), 0, 5)
    assert (short.status, short.reason) == ("failed", "3 of 5 steps are in its log")


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_run_that_diverges(loss: str) -> None:
    """Megatron writes NAN and INF in capitals, as the format .6E does."""
    log = log_of([300.0] * 10, [5.0] * 7 + [loss] * 3)
    found = report.read_log("fp8-delayed", "fp8-delayed", "reflected", log, 1, 10)
    assert (found.status, found.reason) == ("failed", f"the loss is {loss} from step 8 on")
    assert (found.step_ms, len(found.losses)) == (300.0, 10)


def test_a_case_that_was_cut_is_compared_if_enough_steps_count() -> None:
    log = log_of([400.0] * 45, [5.0] * 45)
    late = report.read_log("bf16", "bf16", "reflected", log, None, 50)
    early = report.read_log("bf16", "bf16", "reflected", log_of([400.0] * 20, [5.0] * 20), None, 50)
    fp8 = report.read_log("fp8-tensorwise", "fp8-tensorwise", "reflected", log_of([300.0] * 50, [5.25] * 50), 0, 50)
    found = report.compare([late, fp8], options(), PEAK)
    assert found["fp8_speedup"] == pytest.approx(4 / 3)
    assert found["loss_difference fp8-tensorwise"] == pytest.approx(0.25)
    assert report.compare([early, fp8], options(), PEAK) == {}


def test_conclusions_and_goals() -> None:
    results = [
        result("bf16", 400.0, 4.5),
        result("fp8-tensorwise", 300.0, 4.51),
        result("bf16-again", 400.8, 4.5),
        result("view", 410.0, 4.5, "view"),
        result("plain", 398.0, 4.4, "plain"),
        CaseResult("fp8-blockwise", "skipped", "no time left"),
        result("fp8-delayed", 380.0, 4.6),
    ]
    found = report.compare(results, options(), PEAK)
    assert found["fp8_speedup"] == pytest.approx(400.4 / 300)
    assert found["loss_difference fp8-tensorwise"] == pytest.approx(0.01)
    assert found["spread"] == pytest.approx(0.002)
    assert found["data_overhead"] == pytest.approx(2.8 / 398)  # of the bf16 run next to it
    assert report.goals(found) == [
        ("bf16 MFU at least 45%", "45.0%", "met"),
        ("FP8 at least 1.25x bf16", "1.33x", "met"),
        ("reflected within 1% of plain", "+0.7%", "met"),
        ("sidecar view within 1% of plain", "+3.0%", "missed"),
    ]
    page = report.markdown(results, options(), H200)
    assert "| fp8-blockwise | skipped: no time left | | | | | | |" in page
    assert "| bf16 | 400.0 (400.0 to 400.0) | 40,960 |" in page
    assert "two equal bf16 runs: 0.20% apart" in page
    assert report.goals({})[0] == ("bf16 MFU at least 45%", "-", "not measured")


def test_a_cost_within_the_spread_is_not_decided() -> None:
    results = [result("bf16", 400.0, 4.5), result("bf16-again", 410.0, 4.5), result("plain", 402.0, 4.5, "plain")]
    found = report.compare(results, options(), PEAK)
    assert found["data_overhead"] == pytest.approx(8 / 402)
    assert report.goals(found)[2] == (
        "reflected within 1% of plain",
        "+2.0%",
        "not decided: two equal runs differ as much",
    )
    slow = report.compare([result("bf16", 500.0, 4.5), result("fp8-delayed", 480.0, 4.5)], options(), PEAK)
    assert [verdict for _, _, verdict in report.goals(slow)] == ["missed", "missed", "not measured", "not measured"]


def test_memory_is_compared_with_an_estimate_of_the_same() -> None:
    """The allocator's peak with what tensors take, on the layers that were measured: no CUDA context, no fragmentation."""
    from megatron_srp.training.flags.presets import find_preset
    from megatron_srp.training.layout.layouts import Layout
    from megatron_srp.training.layout.memory import FRAGMENTATION, GIB, RESERVED, estimate_memory

    whole = estimate_memory(find_preset("1p7b"), Layout(gpus=1, micro_batch=4))
    assert whole.total == pytest.approx(whole.allocated * (1 + FRAGMENTATION) + RESERVED)
    page = report.markdown([result("bf16", 400.0, 4.5)], options(), H200)
    assert f"| 40.0 ({whole.allocated / GIB:.1f}) |" in page
    fewer = report.markdown([result("bf16", 400.0, 4.5)], options("--layers", "12"), H200)
    assert f"({whole.allocated / GIB:.1f})" not in fewer
