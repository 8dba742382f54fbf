"""`srp check checkpoint` on checkpoints that torch has written, whole and damaged."""

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader

from megatron_srp.cli.check import main

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "iter_0000020"
    state = {"weight": torch.arange(4000.0), "common_state.args": torch.ones(3)}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    (folder / "metadata.json").write_text("{}")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20")
    return folder


def overwrite(checkpoint: Path, name: str) -> None:
    """One bit in the middle of a tensor."""
    stored = FileSystemReader(checkpoint).read_metadata().storage_data
    part = next(part for index, part in stored.items() if index.fqn == name)
    with (checkpoint / part.relative_path).open("r+b") as file:
        file.seek(part.offset + part.length // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def test_a_whole_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (checkpoint, checkpoint.parent):
        assert main(["checkpoint", str(folder)]) == 0
        shown = capsys.readouterr()
        assert shown.out.startswith(f"{checkpoint}: whole, 2 parts, 0.0 MB") and not shown.err


def test_damage_inside_a_tensor(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overwrite(checkpoint, "weight")
    assert main(["checkpoint", str(checkpoint.parent)]) == 2
    assert capsys.readouterr().err == f"error: {checkpoint}: weight in __0_0.distcp is damaged\n"


def test_damage_to_the_files(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint / "__0_0.distcp").unlink()
    assert main(["checkpoint", str(checkpoint)]) == 2
    assert "__0_0.distcp has 0 bytes of" in capsys.readouterr().err
    (checkpoint / ".metadata").unlink()
    assert main(["checkpoint", str(checkpoint)]) == 2
    assert capsys.readouterr().err == f"error: {checkpoint}: .metadata is missing\n"


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    from megatron_srp.errors import InputError

    with pytest.raises(InputError, match="no checkpoint there; pass the folder of --save"):
        main(["checkpoint", str(tmp_path)])
