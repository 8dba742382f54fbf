"""The newest checkpoint is damaged: the same command resumes from the one before, which a run has kept."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.checkpoint import FileSystemReader

from megatron_srp.training.checks.checkpoint_files import find_damage
from tests.distributed.checkpoints import largest_difference, load_tensors
from tests.distributed.jobs import ASYNC, LOADED, Corpus, Forkserver, Run

STEPS, INTERVAL = 6, 2
TP2 = ["--tensor-model-parallel-size", "2"]
FLAGS = ["--train-iters", str(STEPS), "--save-interval", str(INTERVAL), "--save-retain-interval", "100", *TP2]


def checkpoints(run: Run) -> Path:
    return run.folder / "checkpoints"


def argv(corpus: Corpus, run: Run) -> list[str]:
    return [*corpus.flags, *FLAGS, *run.flags, "--load", str(checkpoints(run))]


@pytest.fixture(scope="module")
def whole(corpus: Corpus, forkserver: Forkserver, tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("whole"))
    finished = forkserver.run(2, argv(corpus, run))
    assert finished.codes == [0, 0], finished.log
    return run


def overwrite_arguments(checkpoint: Path) -> None:
    """Random-looking bytes in their place."""
    stored = FileSystemReader(checkpoint).read_metadata().storage_data
    part = next(part for index, part in stored.items() if index.fqn.startswith("common_state"))
    with (checkpoint / part.relative_path).open("r+b") as file:
        file.seek(part.offset)
        file.write(bytes(i * 7 % 251 for i in range(part.length)))


def flip_a_bit(checkpoint: Path) -> None:
    """In the middle of the largest tensor: torch loads it without a word."""
    stored = FileSystemReader(checkpoint).read_metadata().storage_data
    part = max(stored.values(), key=lambda part: part.length)
    with (checkpoint / part.relative_path).open("r+b") as file:
        file.seek(part.offset + part.length // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def truncate(checkpoint: Path) -> None:
    file = max(checkpoint.glob("*.distcp"), key=lambda path: path.stat().st_size)
    with file.open("r+b") as content:
        content.truncate(file.stat().st_size - 1)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (shutil.rmtree, "it does not exist"),
    "cut short": (truncate, "bytes of"),
    "a file lost": (lambda checkpoint: (checkpoint / "__1_0.distcp").unlink(), "__1_0.distcp has 0 bytes of"),
    "no list of parts": (lambda checkpoint: (checkpoint / ".metadata").write_bytes(b"x"), ".metadata cannot be read"),
    "arguments": (overwrite_arguments, "its arguments in"),
    "a tensor": (flip_a_bit, ".distcp is damaged"),
}


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("cut short", "a tensor") else pytest.param(kind, marks=pytest.mark.exhaustive)
        for kind in DAMAGE
    ],
)
def test_a_damaged_latest(kind: str, whole: Run, corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    damage, reason = DAMAGE[kind]
    run = Run(tmp_path)
    shutil.copytree(checkpoints(whole), checkpoints(run))
    damage(checkpoints(run) / "iter_0000006")
    finished = forkserver.run(2, argv(corpus, run))
    assert finished.codes == [0, 0], finished.log
    (note,) = [line for line in finished.log.splitlines() if "is damaged" in line]
    assert note.startswith(f"note: {checkpoints(run) / 'iter_0000006'} is damaged (") and reason in note
    assert note.endswith("resuming from the previous iteration, 4")
    assert LOADED.findall(finished.log)[0] == "4"
    ours, theirs = (load_tensors(checkpoints(each), STEPS) for each in (run, whole))
    assert largest_difference(ours, theirs) == 0.0
    assert find_damage(checkpoints(run) / "iter_0000006") is None


def test_both_are_damaged(whole: Run, corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    run = Run(tmp_path)
    shutil.copytree(checkpoints(whole), checkpoints(run))
    for step in (4, 6):
        truncate(checkpoints(run) / f"iter_{step:07}")
    finished = forkserver.run(2, argv(corpus, run))
    assert finished.codes[0] == 2, finished.log
    (line,) = [line for line in finished.log.splitlines() if line.startswith("error")]
    assert "is damaged: " in line and "no earlier checkpoint in" in line
    assert "Traceback" not in finished.log


def test_damaged_weights_to_start_from(whole: Run, corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    start, run = Run(tmp_path / "start"), Run(tmp_path / "run")
    shutil.copytree(checkpoints(whole), checkpoints(start))
    flip_a_bit(checkpoints(start) / "iter_0000006")
    finished = forkserver.run(2, [*argv(corpus, run), "--pretrained-checkpoint", str(checkpoints(start))])
    assert finished.codes[0] == 2, finished.log
    (line,) = [line for line in finished.log.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: --pretrained-checkpoint {checkpoints(start)}: ") and ".distcp is damaged; " in line
    assert "Traceback" not in finished.log


@pytest.mark.parametrize(
    ("flags", "kept", "gone"), [([], {6, 8}, {2}), (["--srp-keep-checkpoints", "1", *ASYNC], {8}, {2, 4})]
)
def test_how_many_are_kept(
    flags: list[str], kept: set[int], gone: set[int], corpus: Corpus, forkserver: Forkserver, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    finished = forkserver.run(2, [*argv(corpus, run), *flags, "--train-iters", "8"])
    assert finished.codes == [0, 0], finished.log
    present = {int(path.name.removeprefix("iter_")) for path in checkpoints(run).glob("iter_*")}
    # Megatron deletes in a thread of its own: whether the last is still there at the end is left to chance.
    assert kept <= present and not gone & present
