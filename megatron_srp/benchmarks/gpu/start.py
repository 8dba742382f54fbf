"""Prepares a bare machine and starts the check there: what `tools/gpu_check.sh` runs.

What the machine lacks is installed into a temporary folder next to the machine's own packages, and not into an
environment of its own: Transformer Engine looks for cuDNN in the site-packages of the Python that runs it. Until that
is done, only the standard library is certain to be there.
"""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.metadata import Distribution
from pathlib import Path

from megatron_srp.benchmarks.gpu import janitor
from megatron_srp.benchmarks.gpu.options import parse
from megatron_srp.errors import OutputError, UsageError, run_command
from megatron_srp.training.process.process_ends import ends_with_this_process

ROOT = Path(__file__).parents[3]
_NOT_NEEDED = {"shtab"}  # completes commands in a shell
_FREE_BYTES = {"--out": 64 << 20, "temporary files": 2 << 30}  # tables and logs; unpacked wheels, shards, caches


def main(argv: list[str]) -> int:
    began = time.monotonic()
    options = parse(argv)
    check_folder(options.out, "--out")
    check_wheels(options.wheels)
    check_devices(options.device)
    with temporary_folder() as folder:
        environment = prepare(options.wheels, folder)
        command = [sys.executable, "-m", "megatron_srp.benchmarks.gpu.check", str(folder), str(began), *argv]
        code = subprocess.run(command, env=environment, preexec_fn=ends_with_this_process()).returncode
    if code < 0:
        raise OutputError(f"the check was killed (signal {-code}); what it had measured is in {options.out}")
    return code


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder that cannot be written to, or has no room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UsageError(f"{name} {folder}: {error.strerror}; give a folder that can be written to") from None
    if free < _FREE_BYTES[name]:
        raise UsageError(
            f"{name} in {folder}: {free >> 20} MiB are free, and {_FREE_BYTES[name] >> 20} are needed; make room, or "
            f"choose another disk (--out, or TMPDIR for temporary files)"
        )


def check_wheels(wheels: Path | None) -> None:
    if wheels is not None and not any(wheels.glob("*.whl")):
        raise UsageError(f"--wheels {wheels}: no wheels (*.whl) there; BENCHMARKS.md says which a bare machine needs")


def check_devices(device: str) -> None:
    """Refuse a machine without PyTorch or, unless a CPU is asked for, without a GPU."""
    code = "from megatron_srp.training.checks.devices import find_devices; print(find_devices().count)"
    if PathFinder.find_spec("torch") is None:
        raise UsageError(f"{sys.executable} has no PyTorch; set PYTHON to a Python that has")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"PyTorch does not work here: {last_line(done.stderr)}")
    if device == "cuda" and done.stdout.split()[-1] == "0":
        raise UsageError("no GPU is visible; rehearse with --device cpu --preset debug --steps 4")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end, however the run ends, with all processes that it has started."""
    folder = Path(tempfile.mkdtemp(prefix="srp-gpu-check-"))
    command = [sys.executable, "-E", "-S", janitor.__file__, str(folder), str(os.getpid())]
    cleaner = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield folder
    finally:
        cleaner.communicate()  # closes the pipe


def prepare(wheels: Path | None, folder: Path) -> dict[str, str]:
    """Install the wheels and compile the kernels; returns the environment of all that is measured."""
    check_folder(folder, "temporary files")
    site = folder / "site"
    environment = os.environ | own_settings(folder, site)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # Megatron's imports would take twice as long in every case
    if wheels is not None:
        install(wheels, site, environment)
    check_packages(site)
    compile_kernels(environment)
    return environment


def own_settings(folder: Path, site: Path) -> dict[str, str]:
    """Environment variables of all that is measured, for a run's temporary folder."""
    folders = {"TMPDIR": "tmp", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
    for name in folders.values():
        (folder / name).mkdir()
    return {
        janitor.MARK: f"{folder}:",
        "PYTHONUNBUFFERED": "1",  # what was logged is there when the process is killed
        "PYTHONPATH": joined([str(site), str(ROOT)], "PYTHONPATH"),
        "LD_LIBRARY_PATH": joined(library_folders(), "LD_LIBRARY_PATH"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4"),
        # Each case is a new process; from the second on it finds compiled what the first has compiled.
        **{variable: str(folder / name) for variable, name in folders.items()},
    }


def joined(paths: list[str], variable: str) -> str:
    """Paths, before those that an environment variable has."""
    return os.pathsep.join(filter(None, [*paths, os.environ.get(variable)]))


def install(wheels: Path, site: Path, environment: dict[str, str]) -> None:
    """As they are, without what they depend on: nothing may take the place of the machine's PyTorch."""
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore"]
    command += ["--target", str(site), *map(str, sorted(wheels.glob("*.whl")))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=ends_with_this_process())
    if done.returncode:
        version = ".".join(map(str, sys.version_info[:2]))
        raise UsageError(
            f"--wheels {wheels}: {last_line(done.stderr).removeprefix('ERROR: ')}; one wheel of each package is "
            f"needed, for this machine and Python {version} (pip download --no-deps --python-version {version})"
        )


def last_line(text: str) -> str:
    """The last line that names an error, or simply the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason is given"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])


def check_packages(site: Path) -> None:
    """Refuse a machine on which a package is missing that this one requires, or that a wheel requires in turn.

    What the other wheels require is only mentioned: Transformer Engine loads without some of it, and the rest of the
    check runs without Transformer Engine.
    """
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    if missing := missing_packages(site, plain_names(config["options"]["install_requires"].splitlines())):
        raise UsageError(f"packages that are missing here: {', '.join(missing)}; put their wheels into --wheels FOLDER")
    wheels = [wheel.metadata["Name"] for wheel in Distribution.discover(path=[str(site)])]
    if missing := missing_packages(site, wheels):
        print(f"note: the wheels also require {', '.join(missing)}, which is not here; it may not matter", flush=True)


def missing_packages(site: Path, wanted: list[str]) -> list[str]:
    """Those of `wanted`, and of what the wheels among them require, that are not installed."""
    missing, seen, left = [], set(_NOT_NEEDED), list(wanted)
    while left:
        name = left.pop(0)
        if name in seen:
            continue
        seen.add(name)
        found = next(iter(Distribution.discover(name=name, path=[str(site), *sys.path])), None)
        if found is None:
            missing.append(name)
        elif Path(str(found.locate_file(""))) == site:
            left += plain_names(found.requires or [])
    return missing


def plain_names(requirements: list[str]) -> list[str]:
    """The names of those that are wanted on every machine, without extras, versions and comments."""
    plain = (line.partition("#")[0] for line in requirements if ";" not in line)
    return [match[0] for line in plain if (match := re.match(r"[\w.-]+", line.strip()))]


def library_folders() -> list[str]:
    """Where pip has put NVIDIA's libraries. Transformer Engine's core is linked with cuDNN and NCCL by name alone,
    and pip's are on no search path."""
    spec = PathFinder.find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    return [str(folder) for place in places for folder in sorted(Path(place).glob("*/lib"))]


def compile_kernels(environment: dict[str, str]) -> None:
    """Where the repository has none for this Python."""
    sources = sorted((ROOT / "megatron_srp").rglob("_*.c"))
    missing = [source for source in sources if not PathFinder.find_spec(source.stem, [str(source.parent)])]
    if not missing:
        return
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=ends_with_this_process(),
    )
    if done.returncode:
        raise UsageError(
            f"{missing[0].relative_to(ROOT)} does not compile here: {last_line(done.stderr)}; bring "
            f"{', '.join(source.stem for source in missing)} along, compiled for the same Python"
        )


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
