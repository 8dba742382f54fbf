"""On a GPU: packed sequences in Transformer Engine give what a mask gives in Megatron's own attention."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.training.checks.devices import LOCAL_LAYERS
from tests.distributed.jobs import Run, environment

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")


def train(argv: list[str], run: Run) -> dict[int, float]:
    command = [
        sys.executable,
        "-m",
        "megatron_srp.training.pretrain",
        "--srp-preset",
        "debug",
        "--bf16",
        *argv,
        *run.flags,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment())
    assert result.returncode == 0, result.stdout + result.stderr
    return run.losses()


def test_both_kinds_of_attention(tokenizer_models: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("transformer_engine.pytorch", reason="Transformer Engine is not installed (extra `gpu`)")
    from tests.helpers.sft_shards import chat_shard

    prefix = chat_shard(tmp_path, tokenizer_models["gpt2"][1], 60, 0, "--seq-length", "256")
    argv = ["--srp-sft", prefix, "--train-iters", "5", "--micro-batch-size", "2", "--global-batch-size", "4"]
    argv += ["--save-interval", "5", "--log-interval", "1"]
    first = Run(tmp_path / "first")
    train([*argv, *LOCAL_LAYERS], first)
    start = ["--pretrained-checkpoint", str(first.folder / "checkpoints")]
    masked = train([*argv, *start, *LOCAL_LAYERS], Run(tmp_path / "masked"))
    packed = train([*argv, *start], Run(tmp_path / "packed"))
    assert packed == pytest.approx(masked, abs=0.02)  # bf16, in other kernels
    alone = train([*argv, *start, "--micro-batch-size", "1"], Run(tmp_path / "alone"))
    assert alone == pytest.approx(packed, abs=0.02)
