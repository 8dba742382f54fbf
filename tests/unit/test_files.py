"""Files written whole or not at all."""

import errno
import os

import pytest

from megatron_srp import files
from megatron_srp.files import replacing, write_text, write_text_once


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_when_the_block_ends_well(tmp_path, shared):
    write_text(tmp_path / "a", "old")
    with replacing(tmp_path / "a", shared) as new:
        new.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
        assert names(tmp_path) == ["a", new.name]
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    write_text(tmp_path / "a", "old")
    with pytest.raises(error), replacing(tmp_path / "a") as new:
        new.write_text("half")
        raise error
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_is_reported_with_the_files_name(tmp_path):
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/a'"), replacing(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"^a library's own words$"), replacing(tmp_path / "a"):
        raise OSError("a library's own words")


def test_of_many_writers_the_first_ones_text_stays(tmp_path):
    write_text_once(tmp_path / "a", "first")
    write_text_once(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(files.os, "link", refuse)
    write_text_once(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"
    assert names(tmp_path) == ["a"]
