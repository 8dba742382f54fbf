"""A Transformer Engine that is absent, broken, or loads: what is said of it, and that Megatron does not meet it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = {
    "cannot find cuDNN": (
        'raise RuntimeError("cudnn shared object\\nnot found.")',
        "RuntimeError: cudnn shared object not found.",
    ),
    "a file is missing": (
        'raise FileNotFoundError("libtransformer_engine.so")',
        "FileNotFoundError: libtransformer_engine.so",
    ),
    "an old library": ('raise OSError("libnccl.so.2: cannot open")', "OSError: libnccl.so.2: cannot open"),
}


def fake_engine(folder: Path, code: str) -> Path:
    """A package `transformer_engine` in `folder`, whose part for PyTorch is `code`."""
    package = folder / "transformer_engine"
    package.mkdir()
    (package / "__init__.py").write_text("from . import pytorch\n")
    (package / "pytorch.py").write_text(code + "\n")
    return folder


def run(code: str, packages: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(packages)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=600)


def printed(code: str, packages: Path) -> str:
    done = run(code, packages)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SAY = "from megatron_srp.training.process import extensions; print(extensions.engine_failure())"


@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN)
def test_the_reason_is_its_own(tmp_path: Path, code: str, reason: str) -> None:
    assert printed(SAY, fake_engine(tmp_path, code)) == f"does not load ({reason})"


def test_one_that_is_not_there_and_one_that_loads(tmp_path: Path) -> None:
    without = "import sys; sys.modules['transformer_engine'] = None; " + SAY
    assert printed(without, tmp_path) == "is not installed"
    assert printed(SAY, fake_engine(tmp_path, "print('noise')")) == "None"


def test_only_a_broken_one_is_hidden(tmp_path: Path) -> None:
    hide = """
from megatron_srp.training.process import extensions
extensions.hide_broken_engine()
try:
    import transformer_engine.pytorch
    print("there")
except ImportError:
    print("hidden")
"""
    (tmp_path / "loads").mkdir()
    (tmp_path / "broken").mkdir()
    assert printed(hide, fake_engine(tmp_path / "loads", "")) == "there"
    assert printed(hide, fake_engine(tmp_path / "broken", "raise RuntimeError")) == "hidden"


# A GPU is pretended up to where Megatron would ask for a real one.
ON_A_GPU = """
import sys, torch
torch.cuda.is_available = lambda: True
from megatron_srp.training import pretrain
from megatron_srp.training.checks import devices
devices.find_devices = lambda: devices.Devices(1, "NVIDIA H200", (9, 0), 140 * 2**30, (13, 0))
sys.argv[1:] = ["--mock-data", "--num-layers", "1", *{flags}]
{more}
pretrain.main()
"""
STOP_AT_THE_FLAGS = """
from megatron_srp.training.process import extensions
extensions.hide_broken_engine()
from megatron_srp.training.trainer import megatron_parser, run as trainer
trainer.run = lambda argv, on_cpu: print("Megatron is imported:", megatron_parser.HAVE_TE, on_cpu)
"""


def test_on_a_gpu_one_line_says_why_and_how_to_go_without(tmp_path: Path) -> None:
    packages = fake_engine(tmp_path, 'raise RuntimeError("cudnn shared object not found.")')
    done = run(ON_A_GPU.format(flags=["--bf16"], more=""), packages)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and "does not load (RuntimeError: cudnn shared object not found.)" in line
    assert "or go without, slower: --transformer-impl local" in line


def test_on_a_gpu_megatrons_own_layers_run_without_it(tmp_path: Path) -> None:
    packages = fake_engine(tmp_path, 'raise FileNotFoundError("libtransformer_engine.so")')
    done = run(ON_A_GPU.format(flags=["--transformer-impl", "local"], more=STOP_AT_THE_FLAGS), packages)
    assert done.returncode == 0, done.stderr
    assert "Megatron is imported: False False" in done.stdout


def test_on_a_cpu_it_is_not_met(tmp_path: Path) -> None:
    """Neither one that is broken nor one that loads and would ask for a GPU when a layer is made."""
    code = """
from megatron_srp.training.cpu import backend as cpu_backend
assert cpu_backend.install()
from megatron_srp.training.trainer import megatron_parser
print(megatron_parser.HAVE_TE)
"""
    assert printed(code, fake_engine(tmp_path, "raise OSError")).splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("flags", "found"), [(["--lr", "1"], False), (["--wandb-project", "p"], True), (["--yaml-cfg", "f"], True)]
)
def test_wandb_is_for_runs_that_ask_for_it(tmp_path: Path, flags: list[str], found: bool) -> None:
    (tmp_path / "wandb.py").write_text("")
    code = f"from megatron_srp.training.process import extensions; extensions.hide_unused_wandb({flags})\n"
    code += "try: import wandb; print(True)\nexcept ImportError: print(False)"
    assert printed(code, tmp_path) == str(found)
