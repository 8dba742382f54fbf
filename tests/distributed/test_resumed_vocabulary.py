"""A vocabulary as large as GPT-2's or Llama 3's keeps its padding, and with it the loss, under another layout."""

from pathlib import Path

import pytest

from megatron_srp.checkpoints.megatron_checkpoint import MegatronCheckpoint
from tests.distributed.jobs import Forkserver, Run

STEPS, SAVED = 6, 3
FLAGS = ["--srp-preset", "debug", "--num-layers", "2", "--hidden-size", "64", "--ffn-hidden-size", "192"]
FLAGS += ["--seq-length", "64", "--micro-batch-size", "2", "--global-batch-size", "4", "--train-iters", str(STEPS)]
FLAGS += ["--save-interval", str(SAVED), "--mock-data", "--tokenizer-type", "NullTokenizer"]
TP2, PP2 = ["--tensor-model-parallel-size", "2"], ["--pipeline-model-parallel-size", "2"]
GPT2, LLAMA3 = (50_257, 50_304), (128_256, 128_256)  # tokens, and rows of the table on one rank


@pytest.mark.parametrize(
    ("sizes", "ranks", "layout", "tolerance"),
    [
        pytest.param(GPT2, 2, TP2, 1e-5, id="gpt2-tp2"),
        pytest.param(GPT2, 1, [], 1e-5, id="gpt2-tp1", marks=pytest.mark.exhaustive),
        pytest.param(GPT2, 2, PP2, 1e-4, id="gpt2-pp2", marks=pytest.mark.exhaustive),
        pytest.param(LLAMA3, 2, TP2, 1e-5, id="llama3-tp2", marks=pytest.mark.exhaustive),
    ],
)
def test_the_loss_under_another_layout(
    sizes: tuple[int, int], ranks: int, layout: list[str], tolerance: float, forkserver: Forkserver, tmp_path: Path
) -> None:
    tokens, rows = sizes
    flags = [*FLAGS, "--vocab-size", str(tokens - 1)]  # Megatron's NullTokenizer adds one
    whole = Run(tmp_path / "whole")
    finished = forkserver.run(1, [*flags, *whole.flags])
    assert finished.codes == [0], finished.log
    assert MegatronCheckpoint(whole.folder / "checkpoints", SAVED).args.padded_vocab_size == rows

    resumed = Run(tmp_path / "resumed")
    finished = forkserver.run(ranks, [*flags, *layout, *whole.resume(SAVED), *resumed.flags])
    assert finished.codes == [0] * ranks, finished.log
    expected = {step: loss for step, loss in whole.losses().items() if step > SAVED}
    assert resumed.losses() == pytest.approx(expected, abs=tolerance)
    assert MegatronCheckpoint(resumed.folder / "checkpoints", STEPS).args.padded_vocab_size == rows
