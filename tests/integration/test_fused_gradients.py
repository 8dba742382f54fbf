"""The fused weight gradients that stand in for Apex's: the sums they make, and Megatron's use of them.

A CPU has no matrix product from bf16 to fp32; here it is put together from two, by the same rule.
"""

import subprocess
import sys
from typing import Any

import pytest
import torch

from megatron_srp.training import pretrain
from megatron_srp.training.checks.devices import UNFUSED_GRADIENTS
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.layout.layouts import Layout
from megatron_srp.training.plan import RunPlan
from megatron_srp.training.process import fused_gradients

PLAIN_ADDMM = torch.addmm
SWITCH = UNFUSED_GRADIENTS


def addmm(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, out_dtype: Any, out: Any) -> torch.Tensor:
    return PLAIN_ADDMM(total, left.to(out_dtype), right.to(out_dtype), out=out)


@pytest.fixture
def product_to_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "addmm", addmm)


def two_micro_batches(weight: torch.Tensor, fused: bool) -> None:
    """Two backward passes of Megatron's own linear layer, as its micro-batches are."""
    from megatron.core.tensor_parallel.layers import LinearWithGradAccumulationAndAsyncCommunication as Linear

    torch.manual_seed(1)
    for _ in range(2):
        inputs = torch.randn(12, 3, 8).to(weight.dtype)
        output = Linear.apply(inputs, weight, None, fused, False, False, None, None, None, 1)
        (output.float() * torch.randn(12, 3, 6)).sum().backward()


@pytest.mark.usefixtures("product_to_fp32")
@pytest.mark.parametrize(
    ("weights", "sums", "tolerance"),
    # An unfused gradient is rounded to the weights' type before it is added.
    [
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.float32, 2**-8),
        (torch.bfloat16, torch.bfloat16, 2**-6),
    ],
)
def test_megatrons_layer_sums_what_it_does_unfused(
    monkeypatch: pytest.MonkeyPatch, weights: torch.dtype, sums: torch.dtype, tolerance: float
) -> None:
    from megatron.core.tensor_parallel import layers

    monkeypatch.setattr(layers, fused_gradients.NAME, fused_gradients, raising=False)
    torch.manual_seed(0)
    start = torch.randn(6, 8).to(weights)
    fused, unfused = (torch.nn.Parameter(start.clone()) for _ in range(2))
    fused.main_grad = torch.zeros(6, 8, dtype=sums)  # type: ignore[attr-defined]
    two_micro_batches(fused, True)
    two_micro_batches(unfused, False)
    assert fused.grad is None and unfused.grad is not None
    scale = unfused.grad.float().abs().max().item()
    sums_of: torch.Tensor = fused.main_grad  # type: ignore[attr-defined]
    torch.testing.assert_close(sums_of.float(), unfused.grad.float(), rtol=0, atol=tolerance * scale)


@pytest.mark.usefixtures("product_to_fp32")
def test_sums_in_fp32_lose_nothing_that_bf16_would() -> None:
    inputs, grad_output = torch.full((1, 1), 1.0), torch.full((1, 1), 1.0)
    total = torch.full((1, 1), 512.0)  # bf16 has no 513
    fused_gradients.wgrad_gemm_accum_fp32(inputs.bfloat16(), grad_output.bfloat16(), total)
    assert total.item() == 513


@pytest.mark.usefixtures("product_to_fp32")
def test_it_takes_the_place_of_apex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, fused_gradients.NAME, raising=False)
    monkeypatch.setattr(fused_gradients, "find_spec", lambda name: None)
    assert fused_gradients.install("cpu") is None
    assert sys.modules.pop(fused_gradients.NAME) is fused_gradients
    monkeypatch.setattr(fused_gradients, "find_spec", lambda name: "Apex is there")
    assert fused_gradients.install("cpu") is None
    assert fused_gradients.NAME not in sys.modules


def plan_of(*flags: str) -> RunPlan:
    return RunPlan(look_at(list(flags)), flags, None, Layout(gpus=1))


@pytest.mark.parametrize("wrong", [None, lambda *args, out, **kwargs: out], ids=["no such product", "a wrong sum"])
def test_where_it_does_not_serve_gradients_are_not_fused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: Any
) -> None:
    if wrong:
        monkeypatch.setattr(torch, "addmm", wrong)
    monkeypatch.setattr(fused_gradients, "find_spec", lambda name: None)
    monkeypatch.setattr(fused_gradients, "install", lambda device, plain=fused_gradients.install: plain("cpu"))
    assert pretrain._fuse_gradients(plan_of("--bf16")).flags == (SWITCH, "--bf16")
    assert "gradients are accumulated in a step of their own" in capsys.readouterr().out
    assert fused_gradients.NAME not in sys.modules


def test_the_users_switch() -> None:
    assert pretrain._fuse_gradients(plan_of(SWITCH)).flags == (SWITCH,)


# Megatron's trainer, asked for fused gradients, which it is not on a CPU otherwise.
TRAIN = f"""
import sys
from megatron_srp.training import pretrain
from megatron_srp.training.cpu import backend as cpu_backend
from megatron_srp.training.process import fused_gradients
cpu_backend.CPU_FLAGS = tuple(flag for flag in cpu_backend.CPU_FLAGS if flag != "{SWITCH}")
sys.modules[fused_gradients.NAME] = fused_gradients
pretrain.main()
"""


def test_training_with_them_has_the_losses_of_training_without() -> None:
    sizes = ["--srp-preset", "debug", "--mock-data", "--tokenizer-type", "NullTokenizer", "--vocab-size", "500"]
    sizes += ["--seq-length", "32", "--num-layers", "2", "--micro-batch-size", "1", "--global-batch-size", "2"]
    sizes += ["--train-iters", "4", "--log-interval", "1", "--overlap-grad-reduce", "--use-distributed-optimizer"]
    losses = []
    for more in ([], [SWITCH]):
        done = subprocess.run([sys.executable, "-c", TRAIN, *sizes, *more], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if "lm loss: " in line]
        losses.append([float(line.partition("lm loss: ")[2].split()[0]) for line in lines])
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
