"""The same loss at every parallel layout, in fp32, over 20 steps; bf16, evaluation, asynchronous saves."""

from pathlib import Path

import pytest

from tests.distributed.checkpoints import largest_difference, load_tensors
from tests.distributed.jobs import ASYNC, Corpus, Forkserver, Run

FIRST, STEPS = 2, 22  # those that start from a checkpoint take FIRST's, and train 20 steps
TP2 = ["--tensor-model-parallel-size", "2"]
PP2 = ["--pipeline-model-parallel-size", "2"]
INTERLEAVED = [*PP2, "--num-virtual-stages-per-pipeline-rank", "2"]
# Initialisation on the CPU does not depend on these layouts.
FROM_SCRATCH = {
    "TP2": (2, TP2),
    "TP2 with sequence parallelism": (2, [*TP2, "--sequence-parallel"]),
    "DP2 with the distributed optimizer": (2, ["--use-distributed-optimizer"]),
}
# Pipeline stages draw their weights from seeds of their own, by Megatron's design.
FROM_A_CHECKPOINT = {
    "PP2": (2, PP2),
    "interleaved PP2": (2, INTERLEAVED),
    "TP2 x PP2 with sequence parallelism": (4, [*TP2, *PP2, "--sequence-parallel"]),
}


@pytest.fixture(scope="module")
def flags(corpus: Corpus) -> list[str]:
    """Of every run here: two micro-batches on each of up to two data-parallel ranks."""
    batch = ["--micro-batch-size", "1", "--global-batch-size", "4"]
    return [*corpus.flags, *batch, "--train-iters", str(STEPS), "--save-interval", str(STEPS)]


@pytest.fixture(scope="module")
def single(flags: list[str], forkserver: Forkserver, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One process that nothing is distributed over."""
    run = Run(tmp_path_factory.mktemp("single"))
    finished = forkserver.run(1, [*flags, *run.flags, "--save-interval", str(FIRST)])
    assert finished.codes == [0], finished.log
    return run


def train(forkserver: Forkserver, ranks: int, argv: list[str], folder: Path) -> Run:
    """Run a job to its end."""
    run = Run(folder)
    finished = forkserver.run(ranks, [*argv, *run.flags])
    assert finished.codes == [0] * ranks, finished.log
    return run


@pytest.mark.parametrize(
    "layout", [pytest.param("TP2", marks=pytest.mark.exhaustive), *(name for name in FROM_SCRATCH if name != "TP2")]
)
def test_from_scratch(layout: str, flags: list[str], single: Run, forkserver: Forkserver, tmp_path: Path) -> None:
    ranks, layout_flags = FROM_SCRATCH[layout]
    run = train(forkserver, ranks, [*flags, *layout_flags], tmp_path)
    assert len(run.losses()) == STEPS
    assert run.losses() == pytest.approx(single.losses(), abs=1e-5)


@pytest.mark.parametrize("layout", FROM_A_CHECKPOINT)
def test_from_a_checkpoint(layout: str, flags: list[str], single: Run, forkserver: Forkserver, tmp_path: Path) -> None:
    ranks, layout_flags = FROM_A_CHECKPOINT[layout]
    run = train(forkserver, ranks, [*flags, *layout_flags, *single.resume(FIRST)], tmp_path)
    expected = {step: loss for step, loss in single.losses().items() if step > FIRST}
    assert len(expected) == 20
    assert run.losses() == pytest.approx(expected, abs=1e-5)
    ours, theirs = (load_tensors(r.folder / "checkpoints", STEPS) for r in (run, single))
    assert largest_difference(ours, theirs) < 1e-5


def test_bf16_follows_fp32(flags: list[str], single: Run, forkserver: Forkserver, tmp_path: Path) -> None:
    """With what a cluster uses beside it: distributed optimizer, overlap, recomputation."""
    cluster = ["--bf16", "--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"]
    cluster += ["--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", "1"]
    losses = train(forkserver, 2, [*flags, *cluster], tmp_path).losses()
    differences = [abs(losses[step] - loss) for step, loss in single.losses().items()]
    assert 0 < max(differences) < 0.2
    assert sum(differences) / STEPS < 0.03


@pytest.mark.exhaustive  # the host compiles it, which takes a minute on a CPU
def test_the_fused_loss_of_the_presets_changes_no_loss(
    flags: list[str], forkserver: Forkserver, tmp_path: Path
) -> None:
    argv = [*flags, "--bf16", *TP2]
    fused = train(forkserver, 2, [*argv, "--cross-entropy-loss-fusion"], tmp_path / "fused")
    plain = train(forkserver, 2, argv, tmp_path / "plain")
    assert len(fused.losses()) == STEPS
    assert fused.losses() == plain.losses()


def test_evaluation(flags: list[str], forkserver: Forkserver, tmp_path: Path) -> None:
    # A test split would be evaluated at the end too, and logged under the same name.
    evaluate = ["--train-iters", "5", "--eval-interval", "2", "--eval-iters", "2", "--split", "80,20,0"]
    one = train(forkserver, 1, [*flags, *evaluate], tmp_path / "one")
    two = train(forkserver, 2, [*flags, *evaluate, *TP2], tmp_path / "two")
    losses = one.losses("lm loss validation")
    assert sorted(losses) == [2, 4, 5]
    assert losses[4] < losses[2] < 5.6
    assert two.losses("lm loss validation") == pytest.approx(losses, abs=1e-5)


def test_asynchronous_saves(flags: list[str], single: Run, forkserver: Forkserver, tmp_path: Path) -> None:
    saved = Run(tmp_path / "saved")
    finished = forkserver.run(2, [*flags, *TP2, *ASYNC, "--save-interval", "10", *saved.flags])
    assert finished.codes == [0, 0], finished.log
    assert "scheduled an async checkpoint save at iteration      10" in finished.log
    folder = saved.folder / "checkpoints"
    assert (folder / "latest_checkpointed_iteration.txt").read_text() == str(STEPS)
    resumed = train(forkserver, 1, [*flags, *saved.resume(10)], tmp_path / "resumed")
    expected = {step: loss for step, loss in single.losses().items() if step > 10}
    assert resumed.losses() == pytest.approx(expected, abs=1e-5)
    ours, theirs = (load_tensors(run.folder / "checkpoints", STEPS) for run in (saved, single))
    assert largest_difference(ours, theirs) < 1e-5


@pytest.mark.exhaustive
def test_memory_does_not_grow_with_the_steps(flags: list[str], forkserver: Forkserver, tmp_path: Path) -> None:
    run, file = Run(tmp_path), tmp_path / "memory"
    argv = [str(file), *flags, *run.flags, "--train-iters", "80", "--save-interval", "20"]
    finished = forkserver.run(1, argv, module="tests.distributed.record_memory")
    assert finished.codes == [0], finished.log
    resident, virtual = zip(*(map(int, line.split()) for line in file.read_text().splitlines()), strict=True)
    assert len(resident) == 80 * 4
    half = len(resident) // 2  # by then every buffer is there, and two checkpoints have been saved
    mib = 1024
    assert max(resident[half:]) - max(resident[:half]) < 16 * mib
    assert max(virtual[half:]) - max(virtual[:half]) < 64 * mib
