"""The data job on a real Ray cluster: the one that Ray starts on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_srp.data.preprocess_cli import main
from megatron_srp.errors import UsageError
from tests.conftest import random_texts

pytest.importorskip("ray", reason="Ray is not installed: pip install 'megatron-srp[ray]'")

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_with_reflections.py"


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def flags(tokenizer_models, write_jsonl):
    """A job over three files of one partition each; the last cannot be read."""
    kind, model = tokenizer_models["gpt2"]
    texts = random_texts(81, 6000, most_words=60)
    files = [str(write_jsonl(texts[i * 2000 : i * 2000 + 2000], f"in{i}.jsonl")) for i in range(3)]
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
        try:
            written = json.loads((folder / "journal.json").read_text())["state"]
            pid = written and holder(folder / "lock")
            if pid:
                return os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.005)


def test_without_ray_the_install_command_is_named(flags, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"Ray is not installed; pip install 'megatron-srp\[ray\]'"):
        main([*flags, "--executor", "ray", "--num-partitions", "3", "--output-prefix", str(tmp_path / "o")])


def test_a_cluster_that_is_not_there(flags, tmp_path):
    at = ["--executor", "ray", "--num-partitions", "3", "--ray-address", "127.0.0.1:9", "--output-prefix"]
    with pytest.raises(UsageError, match=r"--ray-address 127\.0\.0\.1:9: no cluster answers there"):
        main([*flags, *at, str(tmp_path / "o")])


@pytest.mark.slow
def test_lost_tasks_are_retried_and_bad_partitions_reported(flags, tmp_path):
    bad = tmp_path / "in2.jsonl"
    good = bad.read_text()
    bad.write_text(good + "no JSON\n")
    ray = [sys.executable, TOOL, *flags, "--executor", "ray", "--num-partitions", "3", "--workers", "1"]
    ray += ["--output-prefix", tmp_path / "ray" / "o"]
    job = subprocess.Popen(ray, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kill_holder(tmp_path / "ray" / "o-00000-of-00003.srp-work", job)
    out, err = job.communicate(timeout=120)
    assert (job.returncode, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("file ")]
    assert any(line.startswith("partition 0: resuming at file 1 of 1") for line in lines), err
    assert f"error: partition 2 of 3: {bad}, line 2001: not valid JSON" in err
    assert lines[-1].startswith("error: 1 of 3 partitions failed; the others are kept") and len(lines) == 3, err
    assert len(list((tmp_path / "ray").glob("o-*.srp.json"))) == 2 and not (tmp_path / "ray" / "o.srp.json").exists()

    bad.write_text(good)
    shutil.rmtree(tmp_path / "ray" / "o-00002-of-00003.srp-work")  # it was begun with another file
    done = subprocess.run(ray, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "partition 0: " in done.stderr and "finished already, with the same settings" in done.stderr
    assert "error" not in done.stderr
    assert main([*flags, "--output-prefix", str(tmp_path / "single" / "o")]) == 0
    for suffix in ("bin", "idx", "srp"):
        files = [tmp_path / folder / f"o_text_document.{suffix}" for folder in ("ray", "single")]
        assert files[0].read_bytes() == files[1].read_bytes()
