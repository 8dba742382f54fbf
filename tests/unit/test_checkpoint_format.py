"""Checkpoints of a newer Megatron, or of a newer version of this project."""

from argparse import Namespace
from pathlib import Path

import pytest

from megatron_srp.errors import InputError
from megatron_srp.training.checks.checkpoint_format import check_format


def write(folder: Path, version: int) -> None:
    (folder / "metadata.json").write_text(f'{{"sharded_backend": "torch_dist", "sharded_backend_version": {version}}}')


@pytest.mark.parametrize(
    "common", [{}, {"args": Namespace(), "checkpoint_version": 3.0}, {"args": Namespace(srp_data_version=1)}]
)
def test_formats_that_are_known(common: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path, 1)
    check_format(tmp_path, common)


@pytest.mark.parametrize(
    ("backend", "common", "part"),
    [
        (2, {}, "torch_dist 2, and this version reads up to 1"),
        (1, {"checkpoint_version": 4.0}, "Megatron's checkpoint version 4.0, and this version reads up to 3.0"),
        (1, {"args": Namespace(srp_data_version=2)}, "the record of its data 2, and"),
    ],
)
def test_newer_ones(backend: int, common: dict[str, object], part: str, tmp_path: Path) -> None:
    write(tmp_path, backend)
    with pytest.raises(InputError, match=f"is of a newer format: {part}"):
        check_format(tmp_path, common)
