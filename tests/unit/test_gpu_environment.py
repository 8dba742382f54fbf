"""What tools/gpu_check.sh installs, where it is found, that none of it is left, and what it refuses to start with."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from megatron_srp.benchmarks.gpu import start
from megatron_srp.errors import UsageError

ROOT = Path(__file__).parents[2]
CPU = ("--device", "cpu")
# Loaded by every Python that finds it. It writes what Transformer Engine would look at: the folder in which it looks
# for cuDNN, and where the loader looks for what its core is linked with.
LOOK = """
import json, os, sys, sysconfig
if "megatron_srp.benchmarks.gpu.check" in sys.orig_argv:
    with open(os.environ["SEEN"], "w") as file:
        json.dump([sysconfig.get_path("purelib"), os.environ["LD_LIBRARY_PATH"], __file__], file)
"""


def make_wheel(folder: Path, name: str, files: dict[str, str], tag: str = "py3-none-any", requires: str = "") -> None:
    """A wheel of version 1.0, of these files."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files |= {
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))


def test_libraries_are_found_and_nothing_is_left(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "looks", {"sitecustomize.py": LOOK}, requires="not_here")
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {
        "PYTHON": sys.executable,
        "SEEN": str(tmp_path / "seen"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    command: list[str | Path] = [
        ROOT / "tools" / "gpu_check.sh",
        "--wheels",
        tmp_path / "wheels",
        "--out",
        tmp_path / "out",
        *CPU,
    ]
    done = subprocess.run([*command, "--minutes", "0.01"], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert "note: the wheels also require not_here, which is not here; it may not matter" in done.stdout
    purelib, libraries, installed = json.loads((tmp_path / "seen").read_text())
    assert purelib == sysconfig.get_path("purelib")  # of the Python that has PyTorch, and not of one made for the check
    if (cudnn := Path(purelib) / "nvidia" / "cudnn" / "lib").exists():
        assert str(cudnn) in libraries.split(":")
    assert not Path(installed).exists()
    assert list((tmp_path / "tmp").iterdir()) == []
    # The minutes count from the command's start, and were over when all was installed.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["gpu_check.json", "gpu_check.md", "logs.tgz"]
    stages = json.loads((tmp_path / "out" / "gpu_check.json").read_text())["stages"]
    assert {stage["status"] for stage in stages} == {"skipped"}


def refused(tmp_path: Path, *argv: object) -> str:
    """The one line of a command that is refused before anything is measured."""
    with pytest.raises(UsageError) as error:
        start.main(["--out", str(tmp_path / "out"), *map(str, argv)])
    assert error.value.exit_code == 2
    assert not list((tmp_path / "out").glob("*.json"))
    return str(error.value)


def test_options_that_are_refused(tmp_path: Path) -> None:
    line = refused(tmp_path, "--cases", "bf16,fp8-tensorwide")
    assert "no case 'fp8-tensorwide'; choose from bf16, " in line
    assert line.endswith("did you mean 'fp8-tensorwise'?")
    assert "give each case once" in refused(tmp_path, "--cases", "bf16,bf16")
    assert "give each case once" in refused(tmp_path, "--cases", ",")
    assert "no plan 'traning'; choose from" in refused(tmp_path, "--plan", "traning")
    assert "--minutes 0: give the minutes" in refused(tmp_path, "--minutes", "0")
    assert "must be at least 1" in refused(tmp_path, "--steps", "0")


def test_wheels_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "check_devices", lambda device: None)
    assert "no wheels (*.whl) there" in refused(tmp_path, *CPU, "--wheels", tmp_path / "absent")
    make_wheel(tmp_path / "old", "old", {}, "cp39-cp39-manylinux_2_17_x86_64")
    line = refused(tmp_path, *CPU, "--wheels", tmp_path / "old")
    assert "old-1.0-cp39-cp39-manylinux_2_17_x86_64.whl is not a supported wheel" in line
    assert f"for this machine and Python {sys.version_info.major}.{sys.version_info.minor}" in line
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "cut-1.0-py3-none-any.whl").write_bytes(b"PK")
    assert "cut-1.0-py3-none-any.whl" in refused(tmp_path, *CPU, "--wheels", tmp_path / "cut")
    make_wheel(tmp_path / "needs", "gigatoken", {}, requires="not_here>=3")
    line = refused(tmp_path, *CPU, "--wheels", tmp_path / "needs")
    assert line == "packages that are missing here: not_here; put their wheels into --wheels FOLDER"


def test_folders_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert "give a folder that can be written to" in refused(tmp_path, "--out", tmp_path / "file" / "out")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1 << 40, 1 << 40, 10 << 20))
    assert "10 MiB are free, and 64 are needed; make room" in refused(tmp_path)


def test_machines_that_are_refused(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    assert "no GPU is visible; rehearse with --device cpu" in refused(tmp_path)
    environment = os.environ | {"PYTHON": "/bin/false"}
    done = subprocess.run([ROOT / "tools" / "gpu_check.sh"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/bin/false is not Python 3.12 or newer" in done.stderr
