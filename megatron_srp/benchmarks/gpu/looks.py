"""What the probe looks at, in a process of its own: what is installed, and what Transformer Engine computes.

python -m megatron_srp.benchmarks.gpu.looks FILE LOOK...     # appends lines of JSON to FILE
"""

import dataclasses
import json
import math
import platform
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megatron_srp.training.checks.devices import find_devices

ENGINE, LINEAR, ATTENTION = "Transformer Engine", "bf16", "attention"
FP8 = ("fp8-tensorwise", "fp8-blockwise", "fp8-delayed")
LOOKS = ("machine", ENGINE, LINEAR, ATTENTION, *FP8)
# Largest relative error, in the Frobenius norm. bf16 rounds by 2^-9 at most; with E4M3 forward and E5M2 backward an MLP
# of random numbers comes to 0.08 (simulated). What is broken comes to 1 and more.
LIMITS = {LINEAR: 0.02, ATTENTION: 0.03} | dict.fromkeys(FP8, 0.15)
DEVICE = "cuda"
TOKENS, HIDDEN, FFN, HEADS = 4096, 2048, 8192, 32  # of the 1.7B model
PACKAGES = ("torch", "triton", "transformers", "megatron-core", "transformer-engine")


def main(file: str, *looks: str) -> None:
    for look in looks:
        _append(file, look, {})
        found = _result(look)
        _append(file, look, found)
        if "failed" in found:
            sys.exit(1)  # after an error of CUDA's all that a process computes fails


def _result(look: str) -> dict[str, Any]:
    try:
        return LOOK[look](look)
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        # A name or a parameter that another release calls otherwise says nothing of what it computes.
        other_release = look != ENGINE and isinstance(error, AttributeError | TypeError | ImportError)
        return {"unknown" if other_release else "failed": reason}


def _append(file: str, look: str, found: dict[str, Any]) -> None:
    with Path(file).open("a") as lines:
        lines.write(json.dumps([look, found]) + "\n")


def _machine(look: str) -> dict[str, Any]:
    import torch

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    versions |= {
        "torch": torch.__version__,
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
    }
    return {"devices": dataclasses.asdict(find_devices()), "versions": versions}


def _engine(look: str) -> dict[str, Any]:
    try:
        import transformer_engine
        import transformer_engine.pytorch
    except ModuleNotFoundError as error:
        if error.name == "transformer_engine":
            return {"failed": "it is not installed"}
        raise
    return {"version": getattr(transformer_engine, "__version__", "unknown")}


def _on_gpu(compute: Callable[[str], tuple[Any, Any]]) -> Callable[[str], dict[str, Any]]:
    """A look that compares what `compute` finds with what it expects, where there is a GPU."""

    def look_at(look: str) -> dict[str, Any]:
        if not find_devices().count:
            return {"left out": "no GPU"}
        return judge(look, *compute(look))

    return look_at


def _linear(look: str) -> tuple[Any, Any]:
    """A matrix product in bf16, against PyTorch's in fp32."""
    import torch
    import transformer_engine.pytorch as te

    torch.manual_seed(0)
    layer = te.Linear(HIDDEN, FFN, bias=False, params_dtype=torch.bfloat16, device=DEVICE)
    x = torch.randn(TOKENS, HIDDEN, device=DEVICE, dtype=torch.bfloat16)
    return layer(x), torch.nn.functional.linear(x.float(), layer.weight.float())


def _fp8(look: str) -> tuple[Any, Any]:
    """An MLP of the 1.7B model, forward and backward, in FP8 against bf16."""
    import torch
    import transformer_engine.pytorch as te
    from transformer_engine.common import recipe

    recipes = {"tensorwise": "Float8CurrentScaling", "blockwise": "Float8BlockScaling", "delayed": "DelayedScaling"}
    scaling = getattr(recipe, recipes[look.removeprefix("fp8-")])(fp8_format=recipe.Format.HYBRID)
    torch.manual_seed(0)
    shape = {"normalization": "RMSNorm", "activation": "swiglu", "bias": False}
    layer = te.LayerNormMLP(HIDDEN, FFN, **shape, params_dtype=torch.bfloat16, device=DEVICE)
    x = torch.randn(TOKENS, HIDDEN, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.randn_like(x)

    def step(fp8: bool) -> Any:
        with te.fp8_autocast(enabled=fp8, fp8_recipe=scaling):
            y = layer(x)
        return torch.cat([y, *torch.autograd.grad(y, [x], upstream)])

    expected = step(False)
    for _ in range(2):  # delayed takes its scales from the steps before
        step(True)
    return step(True), expected


def _attention(look: str) -> tuple[Any, Any]:
    """Causal attention of the 1.7B model's shape, forward and backward, against PyTorch's in fp32."""
    import torch
    import transformer_engine.pytorch as te

    width = HIDDEN // HEADS
    layer = te.DotProductAttention(HEADS, width, attn_mask_type="causal", qkv_format="sbhd", attention_dropout=0.0)
    torch.manual_seed(0)
    # Query, key and value: [sequence, batch, heads, width].
    shape: tuple[int, ...] = (TOKENS // 8, 2, HEADS, width)
    kind: Any = {"device": DEVICE, "dtype": torch.bfloat16}
    ours = [torch.randn(shape, **kind, requires_grad=True) for _ in range(3)]
    theirs = [x.detach().float().requires_grad_() for x in ours]
    upstream = torch.randn(*shape[:2], HIDDEN, **kind)
    out = layer(*ours)
    query, key, value = (x.permute(1, 2, 0, 3) for x in theirs)
    scores = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    expected = scores.permute(2, 0, 1, 3).flatten(2)
    found = [out, *(x.flatten(2) for x in torch.autograd.grad(out, ours, upstream))]
    wanted = [expected, *(x.flatten(2) for x in torch.autograd.grad(expected, theirs, upstream.float()))]
    return torch.cat(found), torch.cat(wanted)


def judge(look: str, found: Any, expected: Any) -> dict[str, Any]:
    """How far tensors are from what they should be, and whether that is too far."""
    error = ((found.float() - expected.float()).norm() / expected.float().norm()).item()
    verdict: dict[str, Any] = {"relative error": error}
    if not math.isfinite(error) or error > LIMITS[look]:
        verdict["failed"] = f"computes something else: relative error {error:.2g}, and {LIMITS[look]} is the most"
    return verdict


LOOK: dict[str, Callable[[str], dict[str, Any]]] = {
    "machine": _machine,
    ENGINE: _engine,
    LINEAR: _on_gpu(_linear),
    ATTENTION: _on_gpu(_attention),
    **dict.fromkeys(FP8, _on_gpu(_fp8)),
}

if __name__ == "__main__":
    main(*sys.argv[1:])
