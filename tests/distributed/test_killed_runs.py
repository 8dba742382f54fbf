"""Real SIGKILLs, of all processes at once, in a step or while a checkpoint is written; then the same command again."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_srp.training.process.repair_tracker import TRACKER
from tests.distributed.checkpoints import largest_difference, load_tensors
from tests.distributed.jobs import ASYNC, LOADED, Corpus, Forkserver, Run

STEPS, INTERVAL = 12, 3
KINDS = {
    "saves in the step": ["--tensor-model-parallel-size", "2"],
    "distributed optimizer": ["--use-distributed-optimizer"],
    "asynchronous saves": ["--tensor-model-parallel-size", "2", *ASYNC],
}


def argv(corpus: Corpus, kind: str, run: Run) -> list[str]:
    """The command of every start: it goes on from where it saves."""
    steps = ["--train-iters", str(STEPS), "--save-interval", str(INTERVAL)]
    return [*corpus.flags, *KINDS[kind], *steps, *run.flags, "--load", str(run.folder / "checkpoints")]


def latest(folder: Path) -> int:
    """What the tracker says, 0 where there is none."""
    tracker = folder / "checkpoints" / TRACKER
    return int(tracker.read_text() or 0) if tracker.exists() else 0


def while_writing(run: Run, saves: int, delay_s: float) -> Callable[[], bool]:
    """True `delay_s` after the first bytes of a checkpoint, finished or not, that `saves` others came before."""
    started = time.time()
    seen: list[float] = []

    def moment() -> bool:
        files = (run.folder / "checkpoints").glob("iter_*/*.distcp")
        written = {path.parent for path in files if path.stat().st_mtime > started}
        if not seen and len(written) > saves:
            seen.append(time.time())
        return (bool(seen) and time.time() >= seen[0] + delay_s) or latest(run.folder) == STEPS

    return moment


def after(delay_s: float) -> Callable[[], bool]:
    """True `delay_s` from now."""
    end = time.time() + delay_s
    return lambda: time.time() >= end


def kill_and_resume(
    corpus: Corpus, forkserver: Forkserver, kind: str, kills: int, seed: int, whole: Run, run: Run
) -> list[int]:
    """Kill a run `kills` times, go on each time, and hold its end against that of an undisturbed one.

    Returns:
        The iterations at which it went on.
    """
    rng = random.Random(seed)
    resumed: list[int] = []
    for number in range(kills + 1):
        expected = latest(run.folder)
        command = argv(corpus, kind, run)
        if number == kills:
            finished = forkserver.run(2, command)
            assert finished.codes == [0, 0], finished.log
        else:
            in_a_save = number % 2 == 0
            save = while_writing(run, rng.randrange(3), rng.uniform(0, 0.1))
            moment = save if in_a_save else after(rng.uniform(0.5, 4))
            finished = forkserver.run_and_kill(2, command, moment)
            assert set(finished.codes) <= {0, -9}, finished.log
        resumed += [int(found) for found in LOADED.findall(finished.log)[:1]]
        assert not expected or not LOADED.search(finished.log) or resumed[-1] == expected
        if latest(run.folder) == STEPS and number < kills:
            break
    ours, theirs = (load_tensors(r.folder / "checkpoints", STEPS) for r in (run, whole))
    assert largest_difference(ours, theirs) == 0.0
    last = resumed[-1] if resumed else 0
    losses, expected_losses = ({step: loss for step, loss in r.losses().items() if step > last} for r in (run, whole))
    assert losses == expected_losses
    return resumed


def undisturbed(corpus: Corpus, forkserver: Forkserver, kind: str, folder: Path) -> Run:
    """A run that nobody killed."""
    run = Run(folder)
    finished = forkserver.run(2, argv(corpus, kind, run))
    assert finished.codes == [0, 0], finished.log
    return run


def test_killed_in_steps_and_saves(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    kind = "saves in the step"
    whole = undisturbed(corpus, forkserver, kind, tmp_path / "whole")
    for seed in range(5):
        if kill_and_resume(corpus, forkserver, kind, 2, seed, whole, Run(tmp_path / f"killed{seed}")):
            return
    raise AssertionError("each run ended before it was killed")


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_killed_many_times(kind: str, corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    whole = undisturbed(corpus, forkserver, kind, tmp_path / "whole")
    for seed in range(4):
        kill_and_resume(corpus, forkserver, kind, 6, seed, whole, Run(tmp_path / f"killed{seed}"))


@pytest.mark.parametrize(
    ("rank", "moment"),
    [
        (1, f"checkpoints/{TRACKER}"),  # between two saves
        pytest.param(0, "checkpoints/iter_0000006/*.distcp", marks=pytest.mark.exhaustive),  # in the second
        pytest.param(1, f"checkpoints/iter_{STEPS:07}/*.distcp", marks=pytest.mark.exhaustive),  # in the last
    ],
)
def test_a_checkpoint_worker_that_dies(
    rank: int, moment: str, corpus: Corpus, forkserver: Forkserver, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    command = argv(corpus, "asynchronous saves", run)
    kill = [str(rank), "worker", str(tmp_path / moment)]
    killed = forkserver.run_and_kill(2, [*kill, *command], after(600), "tests.distributed.kill_checkpoint_worker")
    assert killed.codes[rank] == 1 and killed.codes[1 - rank] != 0, killed.log
    assert "Traceback" not in killed.log
    (line,) = (line for line in killed.log.splitlines() if line.startswith("error"))
    assert "checkpoints has died (by signal 9; has the machine run out of memory?)" in line
    forkserver.wait_for_all_to_end()
    complete = latest(tmp_path)
    assert 0 < complete < STEPS
    finished = forkserver.run(2, command)
    assert finished.codes == [0, 0], finished.log
    assert LOADED.findall(finished.log)[0] == str(complete)
    assert latest(tmp_path) == STEPS


@pytest.mark.exhaustive
@pytest.mark.parametrize("moment", [f"checkpoints/{TRACKER}", "checkpoints/iter_0000006/*.distcp"])
def test_a_manager_of_results_that_dies(moment: str, corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    command = argv(corpus, "asynchronous saves", Run(tmp_path))
    kill = ["0", "manager", str(tmp_path / moment)]
    killed = forkserver.run_and_kill(2, [*kill, *command], after(600), "tests.distributed.kill_checkpoint_worker")
    assert killed.codes[0] == 1 and killed.codes[1] != 0, killed.log
    assert "Traceback" not in killed.log
    (line,) = (line for line in killed.log.splitlines() if line.startswith("error"))
    assert "killed; has the machine run out of memory?" in line


@pytest.mark.parametrize("content", [None, ""])
def test_killed_as_the_tracker_is_written(
    content: str | None, corpus: Corpus, forkserver: Forkserver, tmp_path: Path
) -> None:
    """The state that a kill between opening and writing the tracker leaves, or one just before."""
    run = Run(tmp_path)
    flags = [*argv(corpus, "saves in the step", run), "--train-iters", "6", "--override-opt-param-scheduler"]
    assert forkserver.run(2, [*flags, "--exit-interval", "3"]).codes == [0, 0]
    tracker = tmp_path / "checkpoints" / TRACKER
    assert tracker.read_text() == "3"
    (tmp_path / "checkpoints" / "iter_0000006").mkdir()  # begun, and not complete
    tracker.unlink() if content is None else tracker.write_text(content)
    finished = forkserver.run(2, flags)
    assert finished.codes == [0, 0], finished.log
    assert "resuming from iteration 3, complete on disk" in finished.log
    assert LOADED.findall(finished.log)[0] == "3"
    assert tracker.read_text() == "6"
