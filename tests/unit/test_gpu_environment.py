"""What tools/gpu_check.sh installs, where it is found, and that none of it is left."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make_wheel(folder: Path, name: str, files: dict[str, str], requires: tuple[str, ...] = ()) -> Path:
    """A wheel of version 1.0, of these files."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files |= {
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {other}\n" for other in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


# Loaded by every Python that finds it. It writes what Transformer Engine would look at: the folder in which it looks for
# cuDNN, and where the loader looks for what its core is linked with.
LOOK = """
import json, os, sys, sysconfig
if "megatron_srp.benchmarks.gpu_check" in " ".join(sys.orig_argv):
    with open(os.environ["SEEN"], "w") as file:
        json.dump([sysconfig.get_path("purelib"), os.environ["LD_LIBRARY_PATH"], __file__], file)
"""


def test_libraries_are_found_and_nothing_is_left(tmp_path: Path) -> None:
    import json
    import sysconfig

    make_wheel(tmp_path / "wheels", "looks", {"sitecustomize.py": LOOK})
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {
        "PYTHON": sys.executable,
        "SEEN": str(tmp_path / "seen"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    command = [ROOT / "tools" / "gpu_check.sh", "--wheels", tmp_path / "wheels", "--out", tmp_path / "out"]
    command += ["--device", "cpu", "--preset", "debug", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    purelib, libraries, installed = json.loads((tmp_path / "seen").read_text())
    assert purelib == sysconfig.get_path("purelib")  # of the Python that has PyTorch, and not of one made for the check
    if (cudnn := Path(purelib) / "nvidia" / "cudnn" / "lib").exists():
        assert str(cudnn) in libraries.split(":")
    assert not Path(installed).exists()
    assert list((tmp_path / "tmp").iterdir()) == []
