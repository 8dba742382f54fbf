"""The wheel, in an environment that has its dependencies and no checkout, is the whole product."""

import json
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

pytest.importorskip("build")
httpx = pytest.importorskip("httpx")

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


class Installed:
    """An environment with the wheel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, program: str, *argv: Any, **options: Any) -> str:
        """The output of a program of the environment, started outside the checkout."""
        command: list[Any] = [self.folder / "venv" / "bin" / program, *map(str, argv)]
        done = subprocess.run(command, cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def site_packages(self) -> Path:
        (found,) = (self.folder / "venv").glob("lib/python*/site-packages")
        return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The sdist is built from the checkout, the wheel from the sdist; its dependencies are this environment's own."""
    folder = tmp_path_factory.mktemp("wheel")
    for command in (
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ROOT],
        [sys.executable, "-m", "venv", "--without-pip", folder / "venv"],
    ):
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    environment = Installed(folder)
    install = [sys.executable, "-m", "pip", "--python", folder / "venv" / "bin" / "python", "install"]
    subprocess.run([*install, "--quiet", "--no-deps", "--no-index", wheel], env=ENVIRONMENT, check=True, timeout=600)
    # A path file in the new environment reads no path files in turn: the checkout itself is not found through it.
    (environment.site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def test_nothing_comes_from_the_checkout(installed):
    found = installed.run("python", "-c", "import megatron_srp; print(megatron_srp.__file__)")
    assert Path(found.strip()).is_relative_to(installed.folder)


def test_what_the_wheel_requires_is_what_runs_here(installed):
    (metadata,) = installed.site_packages.glob("megatron_srp-*.dist-info")
    wanted = [Requirement(text) for text in Distribution.at(metadata).requires or []]
    needed = [one for one in wanted if not one.marker or one.marker.evaluate({"extra": "serve"})]
    assert {"megatron-core", "torch", "starlette", "uvicorn"} <= {one.name for one in needed}
    for one in needed:
        assert one.specifier.contains(version(one.name)), one


def test_help(installed):
    assert "preprocess" in installed.run("srp", "--help")
    assert "megatron-srp" in installed.run("srp", "--version")


def test_preprocess_a_file(installed):
    code = "from pathlib import Path; from megatron_srp.toy_corpus.corpus import train_tokenizer, write_corpus; "
    code += "write_corpus(Path('corpus.jsonl'), 50); train_tokenizer(Path('tokenizer'), documents=50)"
    installed.run("python", "-c", code)
    flags = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", "tokenizer", "--guard", "heuristic"]
    installed.run("srp", "preprocess", "--input", "corpus.jsonl", *flags, "--append-eod", "--output-prefix", "out/c")
    manifest = json.loads((installed.folder / "out" / "c.srp.json").read_text())
    assert manifest["counts"]["documents"] == 50 and manifest["counts"]["verdicts"]["Unsafe"] > 0
    installed.run("srp", "verify", "out/c")


def test_serve(installed, tiny_reflector):
    command = [installed.folder / "venv" / "bin" / "srp", "serve", "--model", tiny_reflector]
    command += ["--device", "cpu", "--completions"]
    with subprocess.Popen(
        [*command, "--port", "0"], cwd=installed.folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().partition(" on ")[2].partition(": ")[0]
            name = httpx.get(f"{url}/models", trust_env=False, timeout=600).json()["data"][0]["id"]
            body = {"model": name, "prompt": "say: river", "max_tokens": 4}
            answer = httpx.post(f"{url}/completions", json=body, trust_env=False, timeout=600).json()
            assert answer["choices"][0]["finish_reason"] in ("stop", "length")
        finally:
            server.kill()
