"""`srp check cluster`: whether checkpoints fit on the disk."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_srp.errors import OutputError
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.preflight import space

PRESET = find_preset("1p7b")


def test_checkpoints_that_are_there_need_no_more_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.7B parameters take 24 GB with their optimizer."""
    assert space.checkpoint_bytes(PRESET) == pytest.approx(24e9, rel=0.01)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=30 * 10**9))
    with pytest.raises(OutputError, match=r"30.0 GB free, and 3 more checkpoints of 1p7b will take 71.9 GB; free some"):
        space.check_space(tmp_path, PRESET, 3)
    for step in (1, 2, 3):
        (tmp_path / "checkpoints" / f"iter_000000{step}").mkdir(parents=True)
    line = space.check_space(tmp_path, PRESET, 3)
    assert line == "30.0 GB free, and 1 more checkpoint of 1p7b will take 24.0 GB"
