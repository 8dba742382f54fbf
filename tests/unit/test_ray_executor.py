"""The data job on a real Ray cluster: the one that Ray starts on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from megatron_srp.cli.preprocess import main
from megatron_srp.errors import UsageError
from tests.conftest import random_texts
from tests.helpers.commands import SRP

pytest.importorskip("ray", reason="Ray is not installed: pip install 'megatron-srp[ray]'")

RAY = ["--executor", "ray", "--num-partitions", "3", "--workers", "1"]


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # which on a full machine ends tasks


@pytest.fixture
def flags(tokenizer_models, write_jsonl):
    """A job over three files, which make a partition each; the first, in which a test kills, takes longest."""
    kind, model = tokenizer_models["gpt2"]
    texts = random_texts(81, 10_000, most_words=60)
    parts = (texts[:6000], texts[6000:8000], texts[8000:])
    files = [str(write_jsonl(part, f"in{i}.jsonl")) for i, part in enumerate(parts)]
    flags = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--max-words", "20"]
    return ["--input", *files, *flags, "--guard", "heuristic", "--chunk-documents", "20"]


def holder(lock: Path) -> int | None:
    """The process that has this file open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == lock:
                return int(descriptor.parts[2])
        except OSError:
            continue
    return None


def kill_holder(folder: Path, job: subprocess.Popen) -> None:
    """kill -9 the process that writes into `folder`, once it has committed something."""
    while True:
        assert job.poll() is None, job.communicate()[1]
        if has_committed(folder) and (pid := holder(folder / "lock")):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # it may have finished while it was searched for
                if has_committed(folder) and holder(folder / "lock") == pid:
                    return os.kill(pid, signal.SIGKILL)
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)


def has_committed(folder: Path) -> bool:
    """Whether an unfinished output is there, with something to go on from and something left to write."""
    try:
        journal = json.loads((folder / "journal.json").read_text())
        return bool(journal["state"]) and "finishing" not in journal
    except (FileNotFoundError, ValueError):
        return False


def test_without_ray_the_install_command_is_named(flags, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"Ray is not installed; pip install 'megatron-srp\[ray\]'"):
        main([*flags, "--executor", "ray", "--num-partitions", "3", "--output-prefix", str(tmp_path / "o")])


def test_a_cluster_that_is_not_there(flags, tmp_path):
    at = ["--executor", "ray", "--num-partitions", "3", "--ray-address", "127.0.0.1:9", "--output-prefix"]
    with pytest.raises(UsageError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        main([*flags, *at, str(tmp_path / "o")])


def same_as_a_single_run(flags: list[str], merged: Path, tmp_path: Path) -> bool:
    assert main([*flags, "--output-prefix", str(tmp_path / "single" / "o")]) == 0
    suffixes = ("bin", "idx", "srp")
    return all(
        Path(f"{merged}_text_document.{suffix}").read_bytes()
        == (tmp_path / "single" / f"o_text_document.{suffix}").read_bytes()
        for suffix in suffixes
    )


@pytest.mark.slow
def test_a_lost_task_goes_on_and_the_result_is_the_single_runs(flags, tmp_path):
    merged = tmp_path / "ray" / "o"
    command = [*SRP, "preprocess", *flags, *RAY, "--output-prefix", merged]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kill_holder(tmp_path / "ray" / "o-00000-of-00003.srp-work", job)
    out, err = job.communicate(timeout=600)
    assert job.returncode == 0, err
    lines = [line for line in err.splitlines() if not line.startswith("file ")]
    assert len(lines) == 1 and lines[0].startswith("partition 0: resuming at file 1 of 1"), err
    assert "tokens after" in out and f"wrote {merged}_text_document.bin" in out and "\x1b" not in out
    assert same_as_a_single_run(flags, merged, tmp_path)


@pytest.mark.exhaustive
def test_a_bad_partition_is_reported_and_the_same_command_goes_on(flags, tmp_path):
    bad, merged = tmp_path / "in2.jsonl", tmp_path / "ray" / "o"
    good = bad.read_text()
    bad.write_text(good + "no JSON\n")
    command = [*SRP, "preprocess", *flags, *RAY, "--output-prefix", merged]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("file ")]
    assert len(lines) == 2 and lines[1].startswith("error: 1 of 3 partitions failed; the others are kept"), done.stderr
    assert lines[0].startswith(f"error: partition 2 of 3: {bad}, line 2001: not valid JSON")
    assert len(list(merged.parent.glob("o-*.srp.json"))) == 2 and not Path(f"{merged}.srp.json").exists()

    bad.write_text(good)
    shutil.rmtree(f"{merged}-00002-of-00003.srp-work")  # it was begun with another file
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is finished already, with the same settings") == 2
    assert same_as_a_single_run(flags, merged, tmp_path)
