"""Two jobs with the same --save: the second one ends, unless the first does so in time."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.training.process import job_lock
from megatron_srp.training.process.job_lock import LOCK, lock_folder

HOLD = """
import sys, time
from megatron_srp.training.process.job_lock import lock_folder
lock_folder(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def hold(folder: Path) -> "subprocess.Popen[str]":
    job = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None and job.stdout.readline() == "held\n"
    return job


def test_a_second_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(job_lock, "_EVERY_S", 0.01)
    first = hold(tmp_path / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(job_lock, "SECONDS_TO_WAIT", 0.0)
        with pytest.raises(
            UsageError, match=rf"another job writes there \(.*, process {first.pid}\); end that one, or"
        ):
            lock_folder(str(tmp_path / "checkpoints"))
    first.send_signal(signal.SIGKILL)
    lock_folder(str(tmp_path / "checkpoints"))  # waits for its end
    first.wait()
    assert (tmp_path / "checkpoints" / LOCK).read_text().strip()
    lock_folder(None)
    lock_folder("s3://bucket/run")


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(descriptor: int) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(job_lock, "try_lock", no_locks)
    lock_folder(str(tmp_path))
    assert "has no locks (Function not implemented); see that no other job writes there" in capsys.readouterr().out
