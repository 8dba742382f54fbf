"""What Megatron offers beyond plain batches works on data with reflections; what needs a GPU says so."""

import pytest

from tests.distributed.jobs import Corpus, Forkserver, Run

STEPS = ["--train-iters", "3", "--tensor-model-parallel-size", "2"]


def test_prediction_of_several_tokens(corpus: Corpus, forkserver: Forkserver, tmp_path) -> None:
    run = Run(tmp_path)
    finished = forkserver.run(2, [*corpus.flags, *STEPS, "--mtp-num-layers", "1", *run.flags])
    assert finished.codes == [0, 0], finished.log
    assert "mtp_1 loss" in finished.log
    assert len(run.losses()) == 3


@pytest.mark.parametrize("flags", [["--dataloader-inter-document-masking"], ["--context-parallel-size", "2"]])
def test_what_needs_transformer_engine(flags: list[str], corpus: Corpus, forkserver: Forkserver) -> None:
    steps = STEPS[:2] if "--context-parallel-size" in flags else STEPS
    finished = forkserver.run(2, [*corpus.flags, *steps, *flags])
    assert finished.codes[0] == 2, finished.log
    assert f"error: {flags[0]} needs the attention of Transformer Engine" in finished.log
