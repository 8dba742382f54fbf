"""`--srp-dataloader dali` trains on the same batches, from the start and from the middle of an epoch."""

from pathlib import Path

import pytest

from tests.distributed.jobs import Corpus, Forkserver, Run


def test_the_losses_are_the_same(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (extra `gpu`)")
    flags = [*corpus.flags, "--tensor-model-parallel-size", "2", "--train-iters", "8", "--save-interval", "4"]
    plain, dali, resumed = (Run(tmp_path / name) for name in ("plain", "dali", "resumed"))
    for argv in (
        plain.flags,
        ["--srp-dataloader", "dali", "--num-workers", "1", *dali.flags],
        ["--srp-dataloader", "dali", *plain.resume(4), *resumed.flags],
    ):
        finished = forkserver.run(2, [*flags, *argv])
        assert finished.codes == [0, 0], finished.log
    assert len(plain.losses()) == 8
    assert dali.losses() == plain.losses()
    assert resumed.losses() == {step: loss for step, loss in plain.losses().items() if step > 4}
