"""Training on conversations, through the real trainer: what is seen and learned, at every layout, and going on."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.checkpoints import largest_difference, load_tensors
from tests.distributed.jobs import Forkserver, Run
from tests.helpers.sft_shards import chat_shard

STEPS, MIDDLE = 6, 3
TP2 = ["--tensor-model-parallel-size", "2", "--sequence-parallel"]
# From the checkpoint of the middle of an epoch: pipeline stages draw their weights from seeds of their own.
LAYOUTS = {
    "TP2 with sequence parallelism": (2, TP2),
    "four stages, two of them inner": (4, ["--pipeline-model-parallel-size", "4"]),
    "TP2 x interleaved PP2": (
        4,
        [*TP2, "--pipeline-model-parallel-size", "2", "--num-virtual-stages-per-pipeline-rank", "2"],
    ),
}
LONG = ("TP2 x interleaved PP2",)


@pytest.fixture(scope="module")
def flags(tokenizer_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two epochs of eleven sequences in six steps of four: the second begins in the middle of the third."""
    folder = tmp_path_factory.mktemp("conversations")
    prefix = chat_shard(folder, tokenizer_models["gpt2"][1], 14, 0, "--seq-length", "192")
    argv = ["--srp-preset", "debug", "--srp-sft", prefix, "--srp-sft-epochs", "2", "--seq-length", "192"]
    argv += ["--micro-batch-size", "1", "--global-batch-size", "4", "--save-interval", str(MIDDLE)]
    return [*argv, "--log-interval", "1"]


def train(forkserver: Forkserver, ranks: int, argv: list[str], run: Run) -> Run:
    finished = forkserver.run(ranks, [*argv, *run.flags])
    assert finished.codes == [0] * ranks, finished.log
    return run


@pytest.fixture(scope="module")
def single(flags: list[str], forkserver: Forkserver, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = train(forkserver, 1, flags, Run(tmp_path_factory.mktemp("single")))
    assert len(run.losses()) == STEPS
    return run


def test_going_on_in_the_middle_of_an_epoch_is_exact(
    flags: list[str], single: Run, forkserver: Forkserver, tmp_path: Path
) -> None:
    resumed = train(forkserver, 1, [*flags, *single.resume(MIDDLE)], Run(tmp_path))
    expected = {step: loss for step, loss in single.losses().items() if step > MIDDLE}
    assert resumed.losses() == expected
    ours, theirs = (load_tensors(run.folder / "checkpoints", STEPS) for run in (resumed, single))
    assert largest_difference(ours, theirs) == 0.0


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=pytest.mark.exhaustive) if name in LONG else name for name in LAYOUTS]
)
def test_every_layout(layout: str, flags: list[str], single: Run, forkserver: Forkserver, tmp_path: Path) -> None:
    ranks, own = LAYOUTS[layout]
    run = train(forkserver, ranks, [*flags, *own, *single.resume(MIDDLE)], Run(tmp_path))
    for name in ("lm loss", "learned tokens"):
        expected = {step: value for step, value in single.losses(name).items() if step > MIDDLE}
        assert run.losses(name) == pytest.approx(expected, abs=1e-5)
    ours, theirs = (load_tensors(r.folder / "checkpoints", STEPS) for r in (run, single))
    assert largest_difference(ours, theirs) < 1e-5


def test_the_loss_is_the_average_over_learned_tokens(
    flags: list[str], single: Run, forkserver: Forkserver, tmp_path: Path
) -> None:
    """Ranks and micro-batches learn from different numbers of tokens, which must not weigh the same."""
    run = train(forkserver, 2, [*flags, "--use-distributed-optimizer", "--micro-batch-size", "2"], Run(tmp_path))
    assert run.losses() == pytest.approx(single.losses(), abs=1e-5)
    assert run.losses("learned tokens") == single.losses("learned tokens")
    ours, theirs = (load_tensors(r.folder / "checkpoints", STEPS) for r in (run, single))
    weights = [name for name in theirs if name in ours and not name.startswith("optimizer")]
    assert len(weights) > 5
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in weights) < 1e-5


def test_each_evaluation_goes_through_the_whole_set_once(
    flags: list[str], forkserver: Forkserver, tmp_path: Path
) -> None:
    """At a learning rate of 0, its loss is that of an epoch of training, averaged over the learned tokens."""
    prefix = flags[flags.index("--srp-sft") + 1]
    one_epoch = ["--srp-sft-epochs", "1", "--lr", "0", "--srp-sft-valid", prefix, "--eval-interval", "1"]
    run = train(forkserver, 2, [*flags, *one_epoch], Run(tmp_path))
    losses, tokens = run.losses(), run.losses("learned tokens")
    average = sum(losses[step] * tokens[step] for step in losses) / sum(tokens.values())
    evaluated = run.losses("lm loss validation")
    assert sorted(evaluated) == sorted(losses) == [1, 2, 3]
    assert evaluated[1] == evaluated[2] == evaluated[3] == pytest.approx(average, abs=1e-5)


@pytest.fixture(scope="module")
def recorded(flags: list[str], forkserver: Forkserver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("recorded") / "experiments"
    argv = [str(file), *flags, "--micro-batch-size", "4", "--exit-interval", "1"]
    finished = forkserver.run(1, argv, module="tests.distributed.record_conversations")
    assert finished.codes == [0], finished.log
    experiments: dict[str, Any] = torch.load(file)
    assert len(experiments["spans"]) > 1
    return experiments


def test_conversations_do_not_see_each_other(recorded: dict[str, Any]) -> None:
    spans, logits = recorded["spans"], recorded["logits"]
    for number, (begin, end) in enumerate(spans):
        same = torch.equal(logits[:, begin:end], recorded["logits of the changed"][:, begin:end])
        assert same == (number != recorded["changed"])  # bit for bit
        alone = recorded["logits alone"][number]
        assert float((logits[:, begin:end] - alone).abs().max()) < 1e-5
    begin, end = spans[1]
    assert float((logits - recorded["logits without a mask"])[:, begin:end].abs().max()) > 1e-3


def test_a_prompts_labels_change_nothing(recorded: dict[str, Any]) -> None:
    loss, gradients = recorded["loss"]
    other_loss, other_gradients = recorded["loss, prompt's labels changed"]
    assert torch.equal(loss, other_loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0
    other_loss, other_gradients = recorded["loss, a learned label changed"]
    assert not torch.equal(loss, other_loss)
    assert not all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))
