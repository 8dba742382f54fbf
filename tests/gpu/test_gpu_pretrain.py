"""The same entry point on a GPU: the CPU backend stays out of the way and a few steps are trained."""

import subprocess
from pathlib import Path

import pytest

from megatron_srp.training.checks.devices import LOCAL_LAYERS
from tests.distributed.corpus import markov_documents, write_manifest, write_shard, write_tokenizer
from tests.helpers.commands import SRP

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")


def test_dali_leaves_the_same_batches_on_the_gpu() -> None:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (extra `gpu`)")
    from megatron_srp.training.datasets.dali import DaliLoader

    torch.manual_seed(0)
    batches = [{"tokens": torch.randint(50_000, (4, 128)), "loss_mask": torch.rand(4, 128)} for _ in range(50)]
    ours = list(DaliLoader(batches, device_id=torch.cuda.current_device()))
    assert len(ours) == 50
    for mine, other in zip(ours, batches, strict=True):
        for key, tensor in other.items():
            assert mine[key].is_cuda
            assert torch.equal(mine[key].cpu(), tensor)


def test_a_few_steps(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    write_shard(tmp_path / "corpus_text_document", markov_documents(50))
    write_manifest(tmp_path / "corpus", tmp_path / "tokenizer")
    command = [*SRP, "train", "--srp-preset", "debug"]
    command += ["--data-path", str(tmp_path / "corpus_text_document"), "--train-iters", "5", *LOCAL_LAYERS]
    command += ["--save", str(tmp_path / "checkpoints"), "--log-interval", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no GPU is visible" not in result.stdout
    assert "iteration        5/       5" in result.stdout
    assert (tmp_path / "checkpoints" / "iter_0000005").is_dir()
