"""A rank that hangs and one that is slow, as the launcher sees them."""

import socket
from pathlib import Path

import pytest

from megatron_srp.training.process.progress import (
    HangDetector,
    Progress,
    ProgressFolder,
    combine,
    count_micro_batches,
)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> ProgressFolder:
    monkeypatch.setenv("SRP_PROGRESS_FOLDER", "")  # restored after the test
    monkeypatch.setattr(socket, "gethostname", lambda: "a")
    return ProgressFolder()


def test_ranks_count_and_the_launcher_reads(folder: ProgressFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder.read() is None
    for rank, steps in ((2, 12), (3, 9)):
        monkeypatch.setenv("RANK", str(rank))
        step = count_micro_batches(lambda value: value + 1, timeout_minutes=30)
        assert [step(value) for value in range(steps)] == list(range(1, steps + 1))
    assert folder.read() == Progress(9, 3, 600, 12, "a")
    assert combine([folder.read(), Progress(8, 0, 600, 10, "a")]) == Progress(8, 0, 600, 12, "a")
    assert combine([folder.read(), None]) is None
    Path(folder.path / "4").touch()  # a rank that has just started
    assert folder.read() is None
    folder.remove()
    assert not folder.path.exists()


def test_without_a_launcher_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRP_PROGRESS_FOLDER", raising=False)
    assert count_micro_batches(print, 30) is print


def test_a_hang_ends_the_run_and_a_straggler_does_not() -> None:
    clock = [0.0]
    detector = HangDetector(lambda: clock[0])

    def after(seconds: float, progress: Progress | None) -> tuple[str, bool] | None:
        clock[0] += seconds
        return detector.look(progress)

    assert after(0, None) is None
    assert after(2000, None) is None  # the data are still being indexed
    assert after(0, Progress(1, 0, 600, 1, "a")) is None
    assert after(900, Progress(1, 0, 600, 1, "a")) is None  # the first step compiles kernels
    slow = Progress(40, 3, 600, 41, "a")
    assert after(0, slow) is None
    held_up = "no micro-batch for 61 s: the others wait for rank 3 on a, with 40 of 41; the run ends at 600 s"
    assert after(61, slow) == (held_up, False)
    assert after(400, slow) is None  # said once
    assert after(100, Progress(41, 3, 600, 42, "a")) is None  # a straggler: it moves
    stuck = Progress(41, 3, 600, 42, "a")
    hangs = "no micro-batch for 601 s: the others wait for rank 3 on a, with 41 of 42; rerun the command to resume"
    assert after(601, stuck) == (hangs, True)


def test_a_hang_after_the_forward_pass_names_no_rank() -> None:
    clock = [0.0]
    detector = HangDetector(lambda: clock[0])
    detector.look(Progress(7, 0, 60, 7, "a"))
    clock[0] = 61
    said = detector.look(Progress(7, 0, 60, 7, "a"))
    assert said is not None and said[1]
    assert said[0].startswith("no micro-batch for 61 s, and all ranks have done 7: a collective, a save or a backward")
