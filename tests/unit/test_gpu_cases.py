"""The stages of the plan `training`: what fits a machine, the commands, and what is read from their logs."""

import argparse
import dataclasses
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.benchmarks.gpu import cases, training, two_ranks
from megatron_srp.benchmarks.gpu import check as gpu_check
from megatron_srp.benchmarks.gpu.options import parse
from megatron_srp.benchmarks.gpu.report import CaseResult
from megatron_srp.benchmarks.gpu.stages import Check, Machine
from megatron_srp.training.checks.devices import Devices
from tests.unit.test_gpu_report import log_of

H200 = Devices(1, "NVIDIA H200", (9, 0), 139 * 2**30, (13, 0))
A100 = Devices(1, "NVIDIA A100-SXM4-80GB", (8, 0), 80 * 2**30, (13, 0))
FP8 = {"fp8-tensorwise", "fp8-delayed", "fp8-blockwise"}
ALL = {case.name: case for case in cases.CASES + cases.LATER_CASES}
DATA = {"reflected": Path("r"), "plain": Path("p"), "view": Path("v")}


def make_check(folder: Path, machine: Machine) -> Check:
    check = Check(parse([]), folder, float("inf"), machine)
    check.logs.mkdir()
    return check


@pytest.mark.parametrize(
    ("machine", "skipped"),
    [
        (Machine(H200, no_transformer_engine=""), set()),
        (Machine(dataclasses.replace(H200, cuda=(12, 8)), no_transformer_engine=""), {"fp8-blockwise"}),
        (Machine(H200, no_transformer_engine="", wrong={"fp8-delayed": "computes something else"}), {"fp8-delayed"}),
        (Machine(H200, no_transformer_engine="it is not installed"), FP8 | {"no-te"}),
        (Machine(A100, no_transformer_engine=""), FP8),
        (Machine(), FP8 | {"no-te"}),
    ],
)
def test_the_cases_fit_the_machine(tmp_path: Path, machine: Machine, skipped: set[str]) -> None:
    check = make_check(tmp_path, machine)
    assert {name for name, case in ALL.items() if cases.why_not(case, check)} == skipped
    command = cases.command(ALL["bf16"], check.options, DATA, machine)
    assert ("--transformer-impl" in command) == bool(machine.devices.count and machine.no_transformer_engine)


def test_the_order_is_that_of_their_value() -> None:
    names = [stage.name for stage in training.stages(parse([]))]
    assert names[:7] == ["bf16", "fp8-tensorwise", "bf16-again", "view", "plain", "fp8-blockwise", "fp8-delayed"]
    assert names[7:9] == ["guard", "tests"]
    assert names[-3:] == ["no-te", "tp2", "pp2"]
    assert parse(["--cases", "guard, fp8-delayed"]).cases == ["guard", "fp8-delayed"]


def test_a_case_is_the_real_job() -> None:
    options = parse(["--layers", "12"])
    command = cases.command(ALL["fp8-tensorwise"], options, DATA, Machine(H200, no_transformer_engine=""))
    assert command[:3] == [sys.executable, "-m", "megatron_srp.training.pretrain"]
    flags = dict(pairwise(command))
    expected = {"--srp-preset": "1p7b", "--srp-precision": "fp8-tensorwise", "--num-layers": "12"}
    expected |= {"--micro-batch-size": "8", "--global-batch-size": "16", "--train-iters": "40"}
    assert expected.items() <= flags.items()
    assert flags["--make-vocab-size-divisible-by"] == "49152"
    view = cases.command(ALL["view"], options, DATA, Machine())
    assert (view[view.index("--data-path") + 1], view[view.index("--srp-sidecar") + 1]) == ("p", "v.srp")


def test_attention_that_computes_wrongly_is_not_used() -> None:
    machine = Machine(H200, no_transformer_engine="", wrong={"attention": "computes something else"})
    command = cases.command(ALL["bf16"], parse([]), DATA, machine)
    assert command[command.index("--attention-backend") + 1] == "unfused"


def test_what_is_left_out_must_have_been_there(tmp_path: Path) -> None:
    check = make_check(tmp_path, Machine(H200, no_transformer_engine=""))
    case = ALL["unfused-gradients"]
    for made, reason in (("True", ""), ("False", "the other cases are made so as well")):
        check.note(CaseResult("bf16", "ok", made={case.unlike: made}))
        assert cases.why_not(case, check) == reason


def test_a_corpus_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = make_check(tmp_path, Machine())
    monkeypatch.setattr(check, "run", lambda command, log, limit_s: (check.logs / log).write_text("error: no disk\n"))
    gpu_check.run_stage(cases.stage(ALL["bf16"]), check)
    assert check.outcomes[0].summary() == "failed: CorpusFailure: error: no disk"


@pytest.mark.parametrize(
    ("losses", "codes", "status", "reason"),
    [
        ([6.0, 5.9, 5.8, 5.7, 5.6], [0, 0], "ok", "5 of 5 steps"),
        ([6.0, 5.9], [None, None], "timeout", "stopped at its limit"),
        ([], [1, -6], "failed", "ncclInvalidUsage: Duplicate GPU detected (an error)"),
    ],
)
def test_two_ranks_are_compared_with_one(
    tmp_path: Path, losses: list[float], codes: list[int | None], status: str, reason: str
) -> None:
    check = make_check(tmp_path, Machine(H200, no_transformer_engine=""))
    (check.logs / "tp2-0.log").write_text("ncclInvalidUsage: Duplicate GPU detected (an error)\n")
    (check.logs / "tp2-1.log").write_text(log_of([400.0] * len(losses), list(losses)))
    outcome = two_ranks.compare("tp2", check, [6.0, 5.9, 5.8, 5.75, 5.7], codes)
    assert (outcome.status, outcome.reason) == (status, reason)
    if status == "ok":
        assert outcome.figures["largest_difference_from_one_rank"] == pytest.approx(0.1)


def test_two_ranks_say_that_they_are_on_two_hosts(tmp_path: Path) -> None:
    check = make_check(tmp_path, Machine(H200, no_transformer_engine=""))
    one, two = (two_ranks.command(check, Path("r"), tensor) for tensor in (1, 2))
    flag = "--make-vocab-size-divisible-by"
    assert (one[one.index(flag) + 1], two[two.index(flag) + 1]) == ("49152", "24576")  # padded to the same size
    ranks = [command.environment for command in two_ranks._ranks("tp2", two)]
    assert [rank["RANK"] for rank in ranks] == ["0", "1"]
    assert [rank["LOCAL_RANK"] for rank in ranks] == ["0", "0"]
    assert ranks[0]["NCCL_HOSTID"] != ranks[1]["NCCL_HOSTID"]
    assert ranks[0]["MASTER_PORT"] == ranks[1]["MASTER_PORT"]


TESTS = """
tests/gpu/test_gpu_hf_engine.py::test_flash_attention_is_used PASSED     [ 12%]
tests/gpu/test_gpu_hf_engine.py::test_logprobs[options1] FAILED [ 25%]
tests/gpu/test_gpu_sft.py::test_both SKIPPED (no ...) [ 37%]
tests/gpu/test_gpu_sft.py::test_that_was_cut
"""


def test_tests_that_had_ended_count_where_they_were_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = make_check(tmp_path, Machine())
    monkeypatch.setattr(check, "run", lambda command, log, limit_s: (check.logs / log).write_text(TESTS) and None)
    outcome = training.tests(check, 60)
    assert (outcome.status, outcome.figures) == ("timeout", {"passed": 1, "failed": 1, "skipped": 1})
    assert outcome.reason == "failed: test_logprobs[options1]"


def test_the_guards_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = make_check(tmp_path, Machine(H200))
    result: dict[str, Any] = dict.fromkeys(
        ("parameters", "matmul_tflops", "bound", "bound_whole_template", "peak_gib"), 1.0
    )
    workload = {"segments": 8, "interval": 100, "mix": "natural"}
    result |= {"engine": "hf", "options": {}, "workload": workload, "device": "NVIDIA H200", "versions": {}}
    result |= {"content_tokens": 800, "runs": [90_000.0], "content_tokens_per_s": 90_000.0}

    def run(command: list[object], log: str, limit_s: float) -> int:
        (check.folder / "guard.json").write_text(json.dumps([result]))
        (check.logs / log).write_text("")
        return 0

    monkeypatch.setattr(check, "run", run)
    check.note(training.guard(check, 60))
    assert check.outcomes[0].summary() == "ok: content_tokens_per_s 90000"
    assert "goal 87,000: met; stretch 250,000: missed" in training.markdown(check)


def test_defaults_of_a_gpu_and_of_a_rehearsal() -> None:
    def shape(options: argparse.Namespace) -> tuple[object, ...]:
        return options.preset, options.steps, options.micro_batch, options.accumulate, options.layers

    assert shape(parse([])) == ("1p7b", 40, 8, 2, 24)
    assert shape(parse(["--device", "cpu", "--steps", "2"])) == ("debug", 2, 2, 1, 4)
