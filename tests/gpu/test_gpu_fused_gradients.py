"""Fused weight gradients on a GPU: what PyTorch's matrix product sums there, in what memory, and in a training."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srp.training.checks.devices import LOCAL_LAYERS
from tests.distributed.corpus import markov_documents, write_manifest, write_shard, write_tokenizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")


@pytest.mark.parametrize("shape", [(4096, 2048, 6144), (333, 64, 96)])
def test_bf16_is_summed_in_fp32_in_place(shape: tuple[int, int, int]) -> None:
    from megatron_srp.training.process import fused_gradients

    assert fused_gradients.failure_on("cuda") is None
    tokens, inputs, outputs = shape
    torch.manual_seed(0)
    x = torch.randn(tokens, inputs, device="cuda", dtype=torch.bfloat16)
    gradient = torch.randn(tokens, outputs, device="cuda", dtype=torch.bfloat16)
    total = torch.randn(outputs, inputs, device="cuda")
    expected = total.double() + gradient.double().t() @ x.double()
    fused_gradients.wgrad_gemm_accum_fp32(x, gradient, torch.zeros_like(total))  # cuBLAS takes its workspace
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fused_gradients.wgrad_gemm_accum_fp32(x, gradient, total)
    assert torch.cuda.max_memory_allocated() - before < total.numel()  # bytes: a copy would take four times that
    error = (total.double() - expected).norm() / expected.norm()
    assert error < 1e-5  # rounded to bf16 it would be 2e-3


def losses(argv: list[str]) -> list[float]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gradients are accumulated in a step of their own" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if "lm loss: " in line]
    return [float(line.partition("lm loss: ")[2].split()[0]) for line in lines]


def test_training_with_them_follows_training_without(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    write_shard(tmp_path / "corpus_text_document", markov_documents(50))
    write_manifest(tmp_path / "corpus", tmp_path / "tokenizer")
    command = [sys.executable, "-m", "megatron_srp.training.pretrain", "--srp-preset", "debug", "--bf16"]
    command += ["--data-path", str(tmp_path / "corpus_text_document"), "--train-iters", "10", "--log-interval", "1"]
    command += ["--global-batch-size", "8", *LOCAL_LAYERS]
    fused, unfused = losses(command), losses([*command, "--no-gradient-accumulation-fusion"])
    assert len(fused) == 10
    assert fused == pytest.approx(unfused, rel=0.01)
