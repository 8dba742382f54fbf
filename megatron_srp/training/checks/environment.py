"""What of the training stack is active on this machine, what falls back to something slower, and what is missing.

rows = look()               # a Row for each component; takes some seconds: it imports them
problems(rows, needs)       # reasons why a job with these needs could not run
"""

import importlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from megatron_srp.training.checks.devices import BLOCKWISE_NEEDS, Devices, find_devices
from megatron_srp.training.host.versions import INSTALL, is_tested
from megatron_srp.training.layout.flops import bf16_peak
from megatron_srp.training.process.extensions import import_failure

ACTIVE, FALLBACK, MISSING = "active", "fallback", "missing"
IMAGE = "the image of Dockerfile (make docker) has it"


@dataclass(frozen=True)
class Row:
    """One component: its state, what was found or what takes its place, and what to do about it."""

    component: str
    state: str
    found: str
    advice: str = ""


def can_import(module: str) -> bool:
    return import_failure(module) is None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch(devices: Devices) -> Row:
    import torch

    return Row("torch", ACTIVE, torch.__version__)


def _cuda(devices: Devices) -> Row:
    import torch

    if torch.version.cuda is None:
        return Row("CUDA", MISSING, "torch is built without it", "install a CUDA build of torch")
    state = ACTIVE if devices.count else MISSING
    return Row("CUDA", state, torch.version.cuda, "" if devices.count else "no driver or no GPU is visible")


def _gpus(devices: Devices) -> Row:
    if not devices.count:
        return Row("GPUs", MISSING, "none is visible", "nvidia-smi; CUDA_VISIBLE_DEVICES; docker run --gpus all")
    major, minor = devices.capability
    peak = bf16_peak(devices.name)
    known = f", {peak / 1e12:.0f} TFLOP/s in bf16" if peak else ", peak unknown: no MFU in the log"
    found = f"{devices.count} x {devices.name}, {devices.memory / 2**30:.0f} GiB, compute {major}.{minor}{known}"
    return Row("GPUs", ACTIVE, found)


def _transformer_engine(devices: Devices) -> Row:
    found = _version("transformer-engine")
    if found is None:
        return Row("Transformer Engine", MISSING, "Megatron's local layers, slower", f"{IMAGE}")
    failure = import_failure("transformer_engine.pytorch")
    if failure:
        return Row("Transformer Engine", MISSING, f"{found} does not import: {failure}", "match it to torch and CUDA")
    return Row("Transformer Engine", ACTIVE, found)


def _fp8(devices: Devices) -> Row:
    if not devices.has_fp8:
        return Row("FP8", MISSING, "no GPU with FP8", "Hopper, Ada or newer; otherwise --srp-precision bf16")
    return _engine_says("FP8", "check_fp8_support", "delayed, tensorwise")


def _blockwise_fp8(devices: Devices) -> Row:
    if not devices.has_blockwise_fp8:
        return Row("FP8 by blocks", MISSING, f"needs {BLOCKWISE_NEEDS}", "--srp-precision fp8-tensorwise")
    return _engine_says("FP8 by blocks", "check_fp8_block_scaling_support", "blockwise")


def _engine_says(component: str, question: str, recipes: str) -> Row:
    """Transformer Engine's own answer, which knows its kernels; `question` is the function that gives it."""
    if import_failure("transformer_engine.pytorch"):
        return Row(component, MISSING, "needs Transformer Engine", "see above")
    from transformer_engine.pytorch import quantization

    available, reason = getattr(quantization, question)()
    return Row(component, ACTIVE if available else MISSING, reason or recipes)


def _apex(devices: Devices) -> Row:
    if import_failure("apex.optimizers") is None:
        return Row("fused Adam and norms", ACTIVE, "Apex")
    if devices.count and import_failure("transformer_engine.pytorch") is None:
        return Row("fused Adam and norms", ACTIVE, "Transformer Engine")
    return Row("fused Adam and norms", FALLBACK, "torch's own, slower", IMAGE)


def _gradients(devices: Devices) -> Row:
    from megatron_srp.training.process import fused_gradients

    if import_failure(fused_gradients.NAME) is None:
        return Row("fused gradients", ACTIVE, "Apex")
    failure = fused_gradients.failure_on("cuda") if devices.count else "no GPU is visible"
    if failure is None:
        return Row("fused gradients", ACTIVE, "PyTorch's matrix product")
    return Row("fused gradients", FALLBACK, f"accumulated in a step of their own, somewhat slower: {failure}", IMAGE)


def _flash_attention(devices: Devices) -> Row:
    for package in ("flash-attn-3", "flash-attn"):
        if found := _version(package):
            return Row("flash attention", ACTIVE, f"{package} {found}")
    if devices.count and import_failure("transformer_engine.pytorch") is None:
        return Row("flash attention", ACTIVE, "cuDNN's, through Transformer Engine")
    return Row("flash attention", FALLBACK, "Megatron's unfused attention", IMAGE)


def _dali(devices: Devices) -> Row:
    if import_failure("nvidia.dali"):
        return Row("DALI", FALLBACK, "torch's data loader", IMAGE)
    return Row("DALI", ACTIVE, getattr(importlib.import_module("nvidia.dali"), "__version__", "installed"))


def _nccl(devices: Devices) -> Row:
    import torch

    if not devices.count or not torch.distributed.is_nccl_available():
        return Row("NCCL", FALLBACK, "gloo, on the CPU")
    return Row("NCCL", ACTIVE, ".".join(map(str, torch.cuda.nccl.version())))


def _megatron(devices: Devices) -> Row:
    found = _version("megatron-core")
    if found is None or not is_tested(found):
        return Row("Megatron", MISSING, found or "not installed", INSTALL)
    return Row("Megatron", ACTIVE, found)


def _kernels(devices: Devices) -> Row:
    failure = import_failure("megatron_srp.corpus._text") or import_failure("megatron_srp.data._tokens")
    if failure:
        return Row("compiled kernels", MISSING, failure, "pip install . (needs a C compiler)")
    return Row("compiled kernels", ACTIVE, f"for Python {platform.python_version()}")


_COMPONENTS: tuple[Callable[[Devices], Row], ...] = (
    *(_torch, _cuda, _gpus, _transformer_engine, _fp8, _blockwise_fp8, _apex, _gradients),
    *(_flash_attention, _dali, _nccl, _megatron, _kernels),
)


def look() -> list[Row]:
    """Look at every component, in the order of the table."""
    devices = find_devices()
    return [component(devices) for component in _COMPONENTS]


def needed(precision: str) -> list[str]:
    """Components without which a training job of that `--srp-precision` cannot run on GPUs."""
    needs = ["torch", "CUDA", "GPUs", "Transformer Engine", "Megatron"]
    if precision.startswith("fp8"):
        needs.append("FP8")
    if precision == "fp8-blockwise":
        needs.append("FP8 by blocks")
    return needs


def problems(rows: list[Row], precision: str, gpus: int | None = None) -> list[str]:
    """Why a job could not run here, a line each; empty if it can.

    Args:
        gpus: that the job wants on this machine; None: any number.
    """
    states = {row.component: row for row in rows}
    found = [
        f"{name}: {states[name].found}" + (f"; {states[name].advice}" if states[name].advice else "")
        for name in needed(precision)
        if states[name].state != ACTIVE
    ]
    present = find_devices().count
    if gpus is not None and 0 < present < gpus:
        found.append(f"GPUs: {present} visible, and the job wants {gpus} on this machine")
    return found
