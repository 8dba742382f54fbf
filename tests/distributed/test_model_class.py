"""`--srp-model-class hybrid`: HybridModel has GPTModel's losses and exports, and continues its checkpoints."""

from pathlib import Path

import pytest
import yaml

from megatron_srp.checkpoints.export_hf import export_hf
from megatron_srp.checkpoints.import_hf import import_hf
from tests.distributed.jobs import Corpus, Forkserver, Run

STEPS = ["--train-iters", "6", "--save-interval", "3", "--tensor-model-parallel-size", "2"]
HYBRID = ["--srp-model-class", "hybrid"]


def test_losses_and_a_change_of_class(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    gpt, hybrid, changed = (Run(tmp_path / name) for name in ("gpt", "hybrid", "changed"))
    argv = [*corpus.flags, *STEPS]
    first = forkserver.run(2, [*argv, *gpt.flags])
    assert first.codes == [0, 0], first.log
    second = forkserver.run(2, [*argv, *HYBRID, *hybrid.flags])
    assert second.codes == [0, 0], second.log
    assert len(gpt.losses()) == 6
    assert gpt.losses() == hybrid.losses()
    described, undescribed = (run.folder / "checkpoints/iter_0000003/run_config.yaml" for run in (gpt, hybrid))
    model = yaml.safe_load(described.read_text())["model"]
    assert (model["num_layers"], model["share_embeddings_and_output_weights"]) == (4, True)
    assert not undescribed.exists()  # Bridge's GPTModelProvider describes no HybridModel
    third = forkserver.run(2, [*argv, *HYBRID, *changed.flags, *gpt.resume(3)])
    assert third.codes == [0, 0], third.log
    assert changed.losses() == {step: loss for step, loss in gpt.losses().items() if step > 3}
    export_hf(gpt.folder / "checkpoints", tmp_path / "of-gpt")
    export_hf(hybrid.folder / "checkpoints", tmp_path / "of-hybrid")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "of-gpt" / name).read_bytes() == (tmp_path / "of-hybrid" / name).read_bytes()
    back = forkserver.run(2, [*argv, *Run(tmp_path / "back").flags, *hybrid.resume(3)])
    assert back.codes[0] == 2
    assert "is a checkpoint of a HybridModel, which GPTModel cannot load" in back.log


@pytest.mark.exhaustive
def test_imported_weights_train_as_either_class(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    trained = Run(tmp_path / "trained")
    argv = [*corpus.flags, "--train-iters", "2", "--tensor-model-parallel-size", "2"]
    first = forkserver.run(2, [*argv, *trained.flags])
    assert first.codes == [0, 0], first.log
    export_hf(trained.folder / "checkpoints", tmp_path / "model")
    import_hf(tmp_path / "model", tmp_path / "start")
    losses = []
    for name, flags in (("gpt", []), ("hybrid", HYBRID)):
        run = Run(tmp_path / name)
        done = forkserver.run(2, [*argv, *flags, *run.flags, "--pretrained-checkpoint", str(tmp_path / "start")])
        assert done.codes == [0, 0], done.log
        losses.append(run.losses())
    assert losses[0] == losses[1]
    assert losses[0][1] < trained.losses()[1]
