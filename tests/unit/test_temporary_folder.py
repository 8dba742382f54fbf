"""The launcher's folder for temporary files: gone when it ends, and at the next start when it was killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from megatron_srp.training.process.temporary import own_temporary_folder

KILLED = """
import os, signal, tempfile
from megatron_srp.training.process.temporary import own_temporary_folder
with own_temporary_folder():
    tempfile.mkdtemp(prefix="left-")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that what the launcher sets is undone
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    return tmp_path


def test_temporary_files_go_with_the_launcher(base: Path) -> None:
    with own_temporary_folder() as folder:
        assert Path(tempfile.mkdtemp()).parent == folder == Path(os.environ["TMPDIR"])
        assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == base
    assert not list(base.iterdir())
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(base)


def test_the_next_start_removes_those_of_a_killed_launcher_only(base: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert killed.returncode == -signal.SIGKILL
    (abandoned,) = base.iterdir()
    with own_temporary_folder() as running:
        assert not abandoned.exists()
        with own_temporary_folder():
            assert running.exists()
