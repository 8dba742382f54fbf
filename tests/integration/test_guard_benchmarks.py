"""The benchmarks of guards run, on little; their figures are for `make bench` and a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron_srp.benchmarks.guard_workload import Workload, layer_parameters
from tests.helpers.commands import SRP

ROOT = Path(__file__).parents[2]
NOT_ON_A_BARE_MACHINE = "pyarrow gigatoken awkward xxhash zstandard orjson megatron sentencepiece megatron_srp.corpus._text megatron_srp.data._tokens"


def test_the_workload_is_what_it_says():
    prompts, content = Workload(segments=1_000, interval=100).prompts()
    lengths = np.diff(prompts.rests.offsets) - 98
    assert (len(prompts), len(prompts.prefix), lengths.sum(), lengths.max()) == (1_000, 201, content, 130)
    assert 0.8 < lengths.mean() / 130 < 0.87  # prose fills segments to five sixths
    assert Workload(segments=10, interval=50, mix="fixed").prompts()[1] == 650


def test_the_arithmetic_is_qwen3s():
    assert layer_parameters(28) == pytest.approx(440e6, rel=0.01)
    work = Workload(segments=1, interval=100, mix="fixed")
    dense = 2 * layer_parameters(28) * (130 + 98)
    assert 1.05 < work.flops(28, whole_template=False) / dense < 1.15  # attention and the head come on top
    assert work.flops(28, whole_template=True) > 1.8 * dense


@pytest.mark.exhaustive
def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path):
    command = [*SRP, "bench", "guard", "--device", "cpu", "--layers", "1", "--segments", "8"]
    subprocess.run([*command, "--runs", "1", "--unsafe", "25", "--out", tmp_path / "r"], check=True, timeout=500)
    (result,) = json.loads((tmp_path / "r.json").read_text())
    assert result["content_tokens_per_s"] > 0
    assert result["bound"] > result["bound_whole_template"]
    assert "| hf | 100 | natural |" in (tmp_path / "r.md").read_text()


@pytest.mark.exhaustive
def test_the_gpu_benchmark_imports_only_pytorch_and_transformers():
    code = (
        "import sys, megatron_srp.cli.guard_flags, megatron_srp.annotation.engines.hf_engine, megatron_srp.benchmarks.guard_gpu\n"
        f"print([name for name in {NOT_ON_A_BARE_MACHINE.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.exhaustive
def test_the_cpu_benchmark_runs(tmp_path):
    out = tmp_path / "B.md"
    subprocess.run([*SRP, "bench", "run", "guard-cpu", "--quick", "--out", out], check=True)
    assert "Goal: 50,000 segments/s/core" in out.read_text()
