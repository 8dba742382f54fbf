"""Which checkpoints stay, and which one a run resumes from: by folders alone."""

from pathlib import Path

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.training.checks.checkpoint_files import checkpoint_folder, find_damage, keep_newest, outdated
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.flags.refused import check_flags
from megatron_srp.training.process.repair_tracker import TRACKER, latest_iteration, repair_tracker


def save(folder: Path, iteration: int) -> None:
    checkpoint = checkpoint_folder(folder, iteration)
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "metadata.json").write_text("{}")
    (folder / TRACKER).write_text(str(iteration))


def present(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("iter_")) for path in folder.glob("iter_*"))


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [10, 20, 22]), (2, [10, 20, 21, 22]), (3, [10, 20, 21, 22]), (5, [10, 18, 19, 20, 21, 22])]
)
def test_what_a_run_keeps(keep: int, kept: list[int], tmp_path: Path) -> None:
    """With --save-interval 1 --save-retain-interval 10, as Megatron calls it: not after a milestone."""

    def delete(folder: str, iteration: int) -> None:
        for file in checkpoint_folder(Path(folder), iteration).iterdir():
            file.unlink()
        checkpoint_folder(Path(folder), iteration).rmdir()

    delete_outdated = keep_newest(delete, keep, lambda: 10)
    for iteration in range(1, 23):
        save(tmp_path, iteration)
        if (iteration - 1) % 10:
            delete_outdated(str(tmp_path), iteration - 1)
    assert present(tmp_path) == kept


def test_what_is_left_alone(tmp_path: Path) -> None:
    for iteration in (1, 2, 3, 4, 5, 6, 9):
        save(tmp_path, iteration)
    (tmp_path / TRACKER).write_text("6")  # a run that went back: 9 is not its own
    assert outdated(tmp_path, 2, 100) == [4, 3]  # 1 and 2 were kept on purpose, before there was an interval
    other = tmp_path / "elsewhere"
    checkpoint_folder(tmp_path, 4).rename(other)
    checkpoint_folder(tmp_path, 4).symlink_to(other)
    assert outdated(tmp_path, 2, 100) == [3]
    gone = []
    keep_newest(lambda *values: gone.append(values), 2, lambda: 100)("s3://bucket", 7, True)
    assert gone == [("s3://bucket", 7, True)]


def test_a_lost_tracker_means_the_same_before_and_after_its_repair(tmp_path: Path) -> None:
    assert latest_iteration(tmp_path) is None
    save(tmp_path, 3)
    (tmp_path / TRACKER).write_text("")
    assert latest_iteration(tmp_path) == 3
    assert repair_tracker(tmp_path)
    assert (tmp_path / TRACKER).read_text() == "3"
    assert latest_iteration(tmp_path) == 3


def test_folders_that_are_no_whole_checkpoint(tmp_path: Path) -> None:
    assert find_damage(tmp_path / "none") == "it does not exist"
    save(tmp_path, 3)
    checkpoint = checkpoint_folder(tmp_path, 3)
    assert find_damage(checkpoint) == ".metadata is missing"
    (checkpoint / ".metadata").write_bytes(b"x")
    assert str(find_damage(checkpoint)).startswith(".metadata cannot be read: ")
    (checkpoint / "metadata.json").write_text("{")
    assert find_damage(checkpoint) == "metadata.json cannot be read"
    (checkpoint / "mp_rank_00").mkdir()  # another format, of which nothing is known
    assert find_damage(checkpoint) is None


def test_keeping_none() -> None:
    with pytest.raises(UsageError, match="--srp-keep-checkpoints 0: must be at least 1"):
        check_flags(look_at(["--srp-keep-checkpoints", "0"]))
