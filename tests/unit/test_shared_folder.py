"""The preflight's look at OUT, as a single rank."""

from pathlib import Path
from typing import Any

import pytest

from megatron_srp.errors import OutputError
from megatron_srp.training.preflight import shared_folder
from megatron_srp.training.preflight.shared_folder import check_shared


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "gather", lambda value: [value])


def test_it_leaves_nothing(tmp_path: Path) -> None:
    assert check_shared(tmp_path / "out", 0, 1, is_first=True)
    assert not list((tmp_path / "out").iterdir())


def test_a_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system", str(path))

    for method in ("open", "unlink"):
        monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(OutputError, match=r"out cannot be written on .*: Read-only file system; remove the cause$"):
        check_shared(tmp_path / "out", 0, 1, is_first=True)
