"""Let Megatron's own trainer run on a machine without CUDA, over gloo.

    on_cpu = cpu_backend.install()        # before anything of `megatron` is imported
    cpu_backend.patch_megatron()          # after importing megatron.training, only if `on_cpu`

Where torch sees a GPU, `install()` returns False and changes nothing: one entry point serves the
cluster and the laptop. The patches hold for the whole process, so call it only in a process that
trains. They are plain replacements of names, not a TorchFunctionMode: a mode is switched off inside
`torch.autograd.backward`, where recomputation allocates on "cuda".
"""

import copy
import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from megatron_srp.training.cpu.checkpoints import patch_checkpoints
from megatron_srp.training.cpu.hybrid import use_local_layers
from megatron_srp.training.process.extensions import hide_engine

CPU_FLAGS = (
    *("--distributed-backend", "gloo"),
    # Transformer Engine and the fused kernels exist for CUDA only.
    *("--transformer-impl", "local"),
    "--no-rope-fusion",
    "--no-persist-layer-norm",
    "--no-gradient-accumulation-fusion",
    "--no-masked-softmax-fusion",
    # One generator per model-parallel region, drawn on the CPU: the same weights at any TP size.
    "--use-cpu-initialization",
    # The default format of the distributed optimizer's state cannot be resumed in fp32.
    "--dist-ckpt-optim-fully-reshardable",
    # Worker processes would compete with the ranks for the cores.
    *("--num-workers", "0"),
)

# The tensor factories of which Megatron calls one with device="cuda" or the current device's number.
FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "rand", "randn", "arange")
FACTORIES_LIKE = ("zeros_like", "ones_like", "empty_like")


def default_flags() -> list[str]:
    """Megatron flags that a run without CUDA needs; the user's own flags win over them."""
    return list(CPU_FLAGS)


def install() -> bool:
    """Patch torch for a machine without CUDA, and hide Transformer Engine.

    Returns False, with nothing changed, where a GPU is visible.
    """
    import torch

    if torch.compile is _do_not_compile:  # installed before
        return True
    if torch.cuda.is_available():
        return False
    # Its modules ask for a GPU when they are made, and Megatron would take its norms even for local layers.
    hide_engine()
    _patch_devices(torch.cuda)
    _patch_streams(torch.cuda)
    _patch_random(torch.cuda)
    _patch_tensors(torch)
    # Megatron binds torch.compile as its JIT when it is imported (--disable-jit-fuser comes too late):
    # compiling a dozen small functions costs each rank half a minute on a CPU and gains nothing.
    torch.compile = _do_not_compile
    return True


def patch_megatron() -> None:
    """Replace the parts of Megatron itself that have no CPU path. Call `install()` first."""
    _skip_jit_warmup()
    _allow_sequence_parallel_norm()
    _use_fused_adam_interface()
    use_local_layers()
    patch_checkpoints()


def _constant(value: Any) -> Callable[..., Any]:
    # A new function for each name: Dynamo keys its rule table by the function's identity.
    return lambda *args, **kwargs: value


def _do_not_compile(model: Any = None, **kwargs: Any) -> Any:
    return model if model is not None else (lambda function: function)  # also as @torch.compile(...)


def _patch_devices(cuda: Any) -> None:
    # Only Megatron sees a device. torch itself must see that there is none, or its
    # optimizers, DataLoader and checkpoint reader take their CUDA paths.
    def called_by_megatron() -> bool:
        return sys._getframe(2).f_globals.get("__name__", "").startswith("megatron.")

    cuda.is_available = lambda: called_by_megatron()
    cuda.device_count = lambda: int(called_by_megatron())
    cuda.current_device = _constant(0)
    cuda.set_device = _constant(None)
    cuda.synchronize = _constant(None)
    # Compute capability 9.0 and 80 GiB: validation accepts the flags written for an H100.
    properties = SimpleNamespace(name="cpu", major=9, minor=0, total_memory=80 * 2**30)
    cuda.get_device_properties = _constant(properties)


class Stream:
    """Stands in for CUDA's streams and events: a CPU has one stream and it is always in order."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    wait_stream = wait_event = synchronize = record_event = __init__

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def _patch_streams(cuda: Any) -> None:
    cuda.Stream = Stream
    cuda.stream = _constant(Stream())
    cuda.current_stream = _constant(Stream())


def _patch_random(cuda: Any) -> None:
    # Megatron's tensor-parallel RNG tracker saves and restores "the GPU's" generator around
    # initialization and dropout. On a CPU the generator that draws is torch's default one.
    import torch

    replacements = {
        "default_generators": (torch.default_generator,),
        "_lazy_init": _constant(None),  # would raise: torch is not compiled with, or finds no, CUDA
        "_lazy_call": lambda call, **kwargs: call(),  # would queue the seeding until CUDA starts
        "current_device": cuda.current_device,
        "device_count": cuda.device_count,
    }
    for name, value in replacements.items():
        setattr(cuda, name, value)
        if hasattr(cuda.random, name):  # imported by name there
            setattr(cuda.random, name, value)


def _is_cuda(device: object) -> bool:
    kind = getattr(device, "type", device)  # torch.device, "cuda:0", or a device's number
    if isinstance(kind, str):
        return kind.startswith("cuda")
    return isinstance(kind, int) and not isinstance(kind, bool)


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        return factory(*args, **kwargs)

    return wrapper


def _patch_tensors(torch: Any) -> None:
    # `with torch.device("meta")` recognises the factories by identity, from a table made on first
    # use: make it before they are replaced.
    from torch.utils._device import _device_constructors

    _device_constructors()
    for name in FACTORIES + FACTORIES_LIKE:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    plain_to, plain_type = _on_cpu(torch.Tensor.to), torch.Tensor.type

    def to(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if args and _is_cuda(args[0]):
            args = ("cpu", *args[1:])
        return plain_to(tensor, *args, **kwargs)

    def type_(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        # The distributed optimizer sorts parameters by comparing with 'torch.cuda.FloatTensor'.
        result = plain_type(tensor, *args, **kwargs)
        return result.replace("torch.", "torch.cuda.") if isinstance(result, str) else result

    torch.Tensor.to, torch.Tensor.type = to, type_
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor


def _skip_jit_warmup() -> None:
    # There is no JIT to warm up, and the warm-up would draw from the weights' random generator.
    from megatron.training import training

    training.set_jit_fusion_options = _constant(None)


def _allow_sequence_parallel_norm() -> None:
    # The local layer's torch norm refuses sequence parallelism. It only lacks the attribute by
    # which finalize_model_grads() sums the norms' weight gradients over the tensor-parallel ranks.
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    plain_new: Any = WrappedTorchNorm.__new__

    def new(cls: type, config: Any, *args: Any, **kwargs: Any) -> Any:
        unsharded = copy.copy(config)
        unsharded.sequence_parallel = False
        norm = plain_new(cls, unsharded, *args, **kwargs)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel
        return norm

    WrappedTorchNorm.__new__ = new


def _use_fused_adam_interface() -> None:
    # Megatron's fallback to torch.optim.AdamW cannot resume under the distributed optimizer; the
    # path tested upstream is the one for Transformer Engine's FusedAdam.
    from megatron.core import optimizer
    from megatron.core.optimizer import distrib_optimizer

    from megatron_srp.training.cpu.adam import FusedAdam

    optimizer.Adam, optimizer.USING_PYTORCH_OPTIMIZER = FusedAdam, False
    distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_TE_OPTIMIZER = True
