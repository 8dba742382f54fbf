"""What the probe says of a Transformer Engine that is absent, that is broken, that loads, and that computes wrongly."""

import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_srp.benchmarks.gpu import check as gpu_check
from megatron_srp.benchmarks.gpu import looks, output, probe, training
from megatron_srp.benchmarks.gpu.options import parse
from megatron_srp.benchmarks.gpu.stages import Check, Outcome
from megatron_srp.training.checks.devices import Devices

H200 = Devices(1, "NVIDIA H200", (9, 0), 139 * 2**30, (13, 0))
ENGINES = {
    "broken": ("raise RuntimeError('cudnn shared object not found.')", ""),
    "broken inside": ("__version__ = '2.20.2'", "raise OSError('libfoo.so.1: cannot open shared object file')"),
    "loadable": ("__version__ = '2.20.2'", ""),
    "crashing": ("import os; os.abort()", ""),
}


def write_engine(folder: Path, init: str, torch_part: str) -> None:
    (folder / "transformer_engine" / "pytorch").mkdir(parents=True)
    (folder / "transformer_engine" / "__init__.py").write_text(init)
    (folder / "transformer_engine" / "pytorch" / "__init__.py").write_text(torch_part)


def probed(tmp_path: Path) -> tuple[Check, Outcome]:
    check = Check(parse(["--device", "cpu"]), tmp_path, deadline=float("inf"))
    check.logs.mkdir()
    check.environment |= {"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    gpu_check.run_stage(probe.STAGE, check)
    return check, check.outcomes[0]


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("broken", "RuntimeError: cudnn shared object not found."),
        ("broken inside", "OSError: libfoo.so.1: cannot open shared object file"),
        ("crashing", "exit code -6, see its log"),
        ("loadable", ""),
    ],
)
def test_an_engine_that_does_not_load_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, reason: str
) -> None:
    monkeypatch.setattr(probe, "LOOKS", (looks.ENGINE,))
    write_engine(tmp_path, *ENGINES[engine])
    check, outcome = probed(tmp_path)
    assert check.machine.no_transformer_engine == reason
    assert (f"no Transformer Engine ({reason})" in outcome.reason) == bool(reason)
    assert f"| Transformer Engine | {reason or '2.20.2 loads'} |" in output.markdown(check, training)
    code = "import importlib.util as u; print(u.find_spec('transformer_engine') is None)"
    assert check.run([sys.executable, "-c", code], "found.log", 600) == 0
    assert (check.logs / "found.log").read_text().splitlines()[-1] == str(engine != "loadable")


def test_a_failure_is_not_that_of_what_comes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an error of CUDA's: each look that is left is taken in a new process."""
    monkeypatch.setattr(probe, "LOOKS", (looks.ENGINE, "no such look", "nor this"))
    write_engine(tmp_path, "__version__ = '2.20.2'", "")
    check, _ = probed(tmp_path)
    starts = (check.logs / "probe.log").read_text().count("gpu.looks ")
    assert starts == 2  # the first look and the second; the third
    assert list(check.machine.looks.values()) == ["2.20.2 loads", "KeyError: 'no such look'", "KeyError: 'nor this'"]


def test_a_machine_without_the_engine(tmp_path: Path) -> None:
    if find_spec("transformer_engine") is not None:
        pytest.skip("Transformer Engine is installed here")
    check, outcome = probed(tmp_path)
    assert outcome.summary() == "ok: no Transformer Engine (it is not installed)"
    assert check.machine.versions["torch"] == torch.__version__
    assert check.machine.devices == Devices(0)


class Linear(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, bias: bool, params_dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs, dtype=params_dtype, device=device) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """[sequence, batch, heads, width] to [sequence, batch, heads x width], the plain way."""
    scores = torch.einsum("sbhd,tbhd->bhst", query, key) / query.shape[-1] ** 0.5
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum("bhst,tbhd->sbhd", scores.masked_fill(mask, float("-inf")).softmax(-1), value).flatten(2)


class MLP(torch.nn.Module):
    def __init__(self, hidden: int, ffn: int, normalization: str, activation: str, bias: bool, **kind: Any) -> None:
        super().__init__()
        assert (normalization, activation) == ("RMSNorm", "swiglu")
        self.layers = torch.nn.Sequential(Linear(hidden, ffn, bias, **kind), Linear(ffn, hidden, bias, **kind))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y * (1 + NOISE["now"] * torch.randn_like(y))


NOISE = {"now": 0.0}  # of what is computed in FP8


@contextmanager
def fp8_autocast(enabled: bool, fp8_recipe: dict[str, Any]) -> Iterator[None]:
    NOISE["now"] = fp8_recipe["noise"] if enabled else 0.0
    yield
    NOISE["now"] = 0.0


def use_engine(monkeypatch: pytest.MonkeyPatch, compute: Any, noise: float) -> None:
    """A Transformer Engine that computes on the CPU, and a machine that seems to have a GPU."""
    parts = {"Linear": Linear, "LayerNormMLP": MLP, "fp8_autocast": fp8_autocast}
    engine: Any = types.ModuleType("transformer_engine")
    engine.pytorch = types.SimpleNamespace(**parts, DotProductAttention=lambda *sizes, **settings: compute)
    recipes = ("DelayedScaling", "Float8CurrentScaling")  # and, as in an older release, no blocks
    made = {name: lambda fp8_format: {"noise": noise} for name in recipes}
    engine.common = types.SimpleNamespace(recipe=types.SimpleNamespace(**made, Format=types.SimpleNamespace(HYBRID=0)))
    for name in ("transformer_engine", "transformer_engine.pytorch", "transformer_engine.common"):
        _, _, part = name.partition(".")
        monkeypatch.setitem(sys.modules, name, getattr(engine, part) if part else engine)
    monkeypatch.setattr(looks, "find_devices", lambda: H200)
    for name, value in {"DEVICE": "cpu", "TOKENS": 256, "HIDDEN": 64, "FFN": 128, "HEADS": 2}.items():
        monkeypatch.setattr(looks, name, value)


@pytest.mark.parametrize("wrong", [False, True])
def test_right_and_wrong_figures_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: bool) -> None:
    def not_causal(*qkv: torch.Tensor) -> torch.Tensor:
        return attention(*(x.flip(0) for x in qkv))

    use_engine(monkeypatch, not_causal if wrong else attention, 1.0 if wrong else 0.05)
    for look in looks.LOOKS[2:]:
        with suppress(SystemExit):  # after a failure the others are looked at in a new process
            looks.main(str(tmp_path / "found"), look)
    found = probe.read(tmp_path / "found", "")
    assert found[looks.LINEAR]["relative error"] < 0.01
    for look in (looks.ATTENTION, "fp8-tensorwise", "fp8-delayed"):
        assert (found[look]["relative error"] > looks.LIMITS[look]) == wrong
        assert ("failed" in found[look]) == wrong
    # What another release does not have, or calls otherwise, says nothing of what it computes.
    assert list(found["fp8-blockwise"]) == ["unknown"]


def test_what_cannot_be_used(tmp_path: Path) -> None:
    """A recipe that fails is left out, and so is one that ended the process; the others stay."""
    file = tmp_path / "probe.jsonl"
    devices = {"count": 1, "name": "NVIDIA H200", "capability": [9, 0], "memory": 1, "cuda": [13, 0]}
    lines = [["machine", {"devices": devices, "versions": {}}], [looks.ENGINE, {"version": "2.20.2"}]]
    lines += [[looks.LINEAR, {"relative error": 0.004}], ["fp8-tensorwise", {"relative error": 0.08}]]
    lines += [[looks.ATTENTION, {"unknown": "TypeError: no such parameter"}]]
    lines += [["fp8-delayed", {"relative error": 0.9, "failed": "computes something else"}], ["fp8-blockwise", {}]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    machine = probe.conclude(probe.read(file, "exit code -11, see its log"))
    assert machine.devices == Devices(1, "NVIDIA H200", (9, 0), 1, (13, 0))
    assert machine.no_transformer_engine == ""
    assert machine.wrong == {"fp8-delayed": "computes something else", "fp8-blockwise": "exit code -11, see its log"}
    broken = probe.conclude({"machine": {"devices": devices}, looks.ENGINE: {}, looks.LINEAR: {"failed": "no kernel"}})
    assert broken.no_transformer_engine == "bf16: no kernel"
