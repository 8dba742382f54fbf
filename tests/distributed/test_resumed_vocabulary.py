"""A vocabulary as large as GPT-2's keeps its padding, and with it the loss, under another layout."""

from pathlib import Path

import pytest

from megatron_srp.checkpoints.megatron_checkpoint import MegatronCheckpoint
from tests.distributed.jobs import Forkserver, Run

STEPS, SAVED = 6, 3
FLAGS = ["--srp-preset", "debug", "--num-layers", "2", "--hidden-size", "64", "--ffn-hidden-size", "192"]
FLAGS += ["--seq-length", "64", "--micro-batch-size", "2", "--global-batch-size", "4", "--train-iters", str(STEPS)]
FLAGS += ["--save-interval", str(SAVED), "--mock-data", "--tokenizer-type", "NullTokenizer", "--vocab-size", "50256"]


def test_the_loss_under_another_layout(forkserver: Forkserver, tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole")
    finished = forkserver.run(1, [*FLAGS, *whole.flags])
    assert finished.codes == [0], finished.log
    assert MegatronCheckpoint(whole.folder / "checkpoints", SAVED).args.padded_vocab_size == 50_304

    resumed = Run(tmp_path / "resumed")
    argv = [*FLAGS, "--tensor-model-parallel-size", "2", *whole.resume(SAVED), *resumed.flags]
    finished = forkserver.run(2, argv)
    assert finished.codes == [0, 0], finished.log
    expected = {step: loss for step, loss in whole.losses().items() if step > SAVED}
    assert resumed.losses() == pytest.approx(expected, abs=1e-5)
    assert MegatronCheckpoint(resumed.folder / "checkpoints", STEPS).args.padded_vocab_size == 50_304
