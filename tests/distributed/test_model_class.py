"""`--srp-model-class hybrid`: HybridModel has GPTModel's losses and exports, and continues its checkpoints."""

from pathlib import Path

from megatron_srp.checkpoints.export_hf import export_hf
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
