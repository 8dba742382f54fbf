"""The CPU backend: nothing where a GPU is visible, Megatron's view of a GPU where none is.

It patches torch for the whole process, so each test has a process of its own.
"""

import subprocess
import sys
from typing import Any

import pytest


def run(code: str) -> str:
    """Standard output of a Python program."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_it_changes_nothing_where_a_gpu_is_visible() -> None:
    output = run("""
import sys
import torch, torch.cuda.random, torch.utils._device
torch.cuda.is_available = lambda: True
places = [torch, torch.cuda, torch.cuda.random, torch.Tensor, torch.utils._device]
before = [dict(vars(place)) for place in places]
from megatron_srp.training.cpu import backend as cpu_backend
assert cpu_backend.install() is False
for place, names in zip(places, before):
    now = dict(vars(place))
    changed = [name for name in names if now.get(name) is not names[name]]
    assert now.keys() == names.keys() and not changed, (place, changed)
assert not [name for name in sys.modules if name.startswith("megatron.")]
print("unchanged")
""")
    assert output == "unchanged"


def test_the_entry_point_patches_nothing_for_cpus_where_a_gpu_is_visible() -> None:
    """Up to where the flags are parsed: from there on Megatron would ask for a real GPU."""
    output = run("""
import warnings
warnings.filterwarnings("ignore")
import torch
torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda: "NVIDIA H100 80GB HBM3"
from megatron_srp.training.trainer import run as trainer
from megatron_srp.training.cpu import backend as cpu_backend
from megatron_srp.training.plan import plan_run
from megatron.core import optimizer
from megatron.core.optimizer import distrib_optimizer
from megatron.core.transformer import torch_norm
from megatron.training import training
on_cpu = cpu_backend.install()
def state():
    return (optimizer.Adam, optimizer.USING_PYTORCH_OPTIMIZER, distrib_optimizer.HAVE_APEX_OR_TE,
            distrib_optimizer.USING_TE_OPTIMIZER, torch_norm.WrappedTorchNorm.__new__,
            training.set_jit_fusion_options, training.build_pretraining_data_loader, torch.compile)
class Reached(Exception): pass
def stop(argv): raise Reached
trainer.parse_arguments = stop
before = state()
try:
    trainer.run(plan_run(["--mock-data"], 1), on_cpu)
except Reached:
    assert state() == before
    print("unchanged")
""")
    assert output == "unchanged"


def test_only_megatron_sees_a_device() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is visible: the backend is inert here, which the other test checks")
    output = run("""
import torch
from megatron_srp.training.cpu import backend as cpu_backend
assert cpu_backend.install() and cpu_backend.install()
assert not torch.cuda.is_available()
in_megatron = {"__name__": "megatron.core.x", "torch": torch}
assert eval("torch.cuda.is_available() and torch.cuda.device_count() == 1", in_megatron)
for made in (
    torch.zeros(2, device="cuda"), torch.empty(2, device=torch.device("cuda:0")), torch.ones(2, device=0),
    torch.zeros(2).to("cuda"), torch.zeros(2).cuda(), torch.zeros_like(torch.ones(2), device="cuda"),
):
    assert made.device.type == "cpu"
assert torch.zeros(2).to(torch.float64).dtype == torch.float64
assert torch.zeros(2).type() == "torch.cuda.FloatTensor"
with torch.device("meta"):
    assert torch.empty(2).device.type == "meta"
torch.manual_seed(1)
state = torch.cuda.get_rng_state()
first = torch.rand(3)
torch.cuda.set_rng_state(state)
assert torch.equal(first, torch.rand(3))
print("ok")
""")
    assert output == "ok"


@pytest.mark.parametrize("adam_w_mode", [True, False])
def test_adam_equals_torchs(adam_w_mode: bool) -> None:
    import torch

    from megatron_srp.training.cpu.adam import FusedAdam

    torch.manual_seed(0)
    start = torch.randn(7, 5)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    reference = torch.optim.AdamW if adam_w_mode else torch.optim.Adam
    optimizers = (FusedAdam([ours], adam_w_mode=adam_w_mode, **settings), reference([theirs], **settings))
    for _ in range(5):
        gradient = torch.randn_like(start)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert optimizers[0].param_groups[0]["step"] == 5
