"""A machine that has PyTorch and what often comes with it, and nothing else: to rehearse `tools/gpu_check.sh` on.

    python -m tests.helpers.bare_machine FOLDER [--wheels FOLDER] [options of tools/gpu_check.sh]      # make gpu-rehearsal

It is a virtual environment of links to the packages of this one, and nothing is downloaded. What it lacks is made
into wheels, from this environment as well, unless a folder with wheels is given.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_path("purelib"))
# With all that they require. As found on a machine for research with PyTorch on it, in an image without Megatron.
HAS: tuple[str, ...] = (
    "torch",
    "transformers",
    "numpy",
    "pyarrow",
    "sentencepiece",
    "pyyaml",
    "xxhash",
    "rich",
    "jinja2",
    "typer",
)
HAS += ("matplotlib", "tensorboard", "setuptools", "pytest", "pytest-xdist", "hypothesis", "pip")
LACKS = ("megatron-core", "gigatoken", "awkward", "awkward-cpp", "google-re2", "msgspec", "orjson", "zstandard")


def make_machine(folder: Path) -> Path:
    """A machine without what it lacks; returns its Python."""
    venv.create(folder, symlinks=True, with_pip=not installed("pip"), clear=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for name in closure(HAS):
        for entry in {Path(file).parts[0] for file in distribution(name).files or []}:
            if entry not in ("..", "__pycache__") and (SITE / entry).exists() and not (site / entry).exists():
                (site / entry).symlink_to(SITE / entry)
    return folder / "bin" / "python"


def closure(names: Iterable[str]) -> set[str]:
    """These distributions and all that they require, as far as they are installed here."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found or name in LACKS or not installed(name):
            continue
        found.add(name)
        plain = (line for line in distribution(name).requires or [] if "extra ==" not in line)
        left += [match[0] for line in plain if (match := re.match(r"[\w.-]+", line))]
    return found


def installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def make_wheels(folder: Path) -> Path:
    """What the machine lacks, as wheels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LACKS:
        make_wheel(distribution(name), folder)
    return folder


def make_wheel(installed: Distribution, folder: Path) -> None:
    """An installed distribution as the wheel that it came from."""
    tag = re.search(r"^Tag: (\S+)", installed.read_text("WHEEL") or "", re.MULTILINE)
    assert tag is not None
    files = [file for file in installed.files or [] if file.parts[0] != ".." and file.suffix != ".pyc"]
    record = next(file for file in files if file.name == "RECORD")
    name = re.sub(r"[-_.]+", "_", installed.metadata["Name"])
    with zipfile.ZipFile(folder / f"{name}-{installed.version}-{tag[1]}.whl", "w") as wheel:
        for file in files:
            if file != record:
                wheel.write(SITE / file, str(file))
        wheel.writestr(str(record), "".join(f"{file},,\n" for file in files))


def main(folder: str, *flags: str) -> int:
    work = Path(folder).resolve()
    options = list(flags)
    if "--wheels" not in options:
        options += ["--wheels", str(make_wheels(work / "wheels"))]
    python = make_machine(work / "machine")
    command = [str(ROOT / "tools" / "gpu_check.sh"), "--out", str(work / "out"), "--device", "cpu", *options]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(command, env=environment | {"PYTHON": str(python)}).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
