"""Whether this machine's GPUs can run what the flags ask for; looked at before Megatron is imported."""

import argparse
import os
from dataclasses import dataclass

from megatron_srp.errors import UsageError
from megatron_srp.training.process.extensions import INSTALL_GPU, NOT_INSTALLED, engine_failure

FIRST_WITH_FP8 = (8, 9)  # compute capability; Ada. Hopper is 9.0
# What Transformer Engine asks for FP8 with a scale for each block.
FIRST_WITH_BLOCKS, CUDA_WITH_BLOCKS = (9, 0), (12, 9)
BLOCKWISE_NEEDS = f"Hopper or newer and CUDA {'.'.join(map(str, CUDA_WITH_BLOCKS))}"
UNFUSED_GRADIENTS = "--no-gradient-accumulation-fusion"
# Megatron's own layers, for a GPU without Transformer Engine: correct, but slower, and no FP8.
LOCAL_LAYERS = (
    *("--transformer-impl", "local", "--no-rope-fusion", "--no-persist-layer-norm", "--no-masked-softmax-fusion"),
)


@dataclass(frozen=True)
class Devices:
    """The GPUs that this process sees."""

    count: int
    name: str = ""
    capability: tuple[int, int] = (0, 0)
    memory: int = 0  # bytes of the first
    cuda: tuple[int, int] = (0, 0)  # version that torch is built for

    @property
    def has_fp8(self) -> bool:
        return self.capability >= FIRST_WITH_FP8

    @property
    def has_blockwise_fp8(self) -> bool:
        return self.capability >= FIRST_WITH_BLOCKS and self.cuda >= CUDA_WITH_BLOCKS


def find_devices() -> Devices:
    """What torch sees; imports it."""
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        return Devices(0)
    properties = torch.cuda.get_device_properties(0)
    major, minor = (torch.version.cuda or "0.0").split(".")[:2]
    return Devices(
        count, properties.name, torch.cuda.get_device_capability(0), properties.total_memory, (int(major), int(minor))
    )


def layer_flags(flags: list[str]) -> list[str]:
    """`LOCAL_LAYERS` where a training with `flags` cannot use Transformer Engine's.

    It is not there, does not load, or, in fp32, has no attention for packed conversations. On a CPU they change
    nothing: it has them by default.
    """
    return [] if "--bf16" in flags and engine_failure() is None else list(LOCAL_LAYERS)


def check_devices(args: argparse.Namespace, devices: Devices, no_engine: str | None) -> None:
    """Refuse what these devices cannot run.

    Args:
        args: of `command_line.look_at`, presets expanded.
        no_engine: what keeps Transformer Engine from serving, as `extensions.engine_failure` says it.
    """
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < devices.count < local_ranks:
        raise UsageError(
            f"{local_ranks} ranks on this machine and {devices.count} GPUs visible: start at most one rank for each "
            f"GPU (--nproc-per-node {devices.count}), or see whether CUDA_VISIBLE_DEVICES hides some"
        )
    if args.fp8 is not None:
        _check_fp8(args, devices, no_engine)
    if devices.count and no_engine and args.transformer_impl != "local":
        raise UsageError(
            f"Transformer Engine {no_engine}, and Megatron's layers are its own: "
            f"{_way_to_engine(no_engine)}, or go without, slower: {' '.join(LOCAL_LAYERS)}"
        )


def _way_to_engine(failure: str) -> str:
    if failure == NOT_INSTALLED:
        return f"install it ({INSTALL_GPU}, or the image of Dockerfile)"
    return "install one built for the PyTorch and the CUDA that `srp check` names, or use the image of Dockerfile"


def _check_fp8(args: argparse.Namespace, devices: Devices, no_engine: str | None) -> None:
    asked = f"--srp-precision {args.srp_precision}" if args.srp_precision else f"--fp8-format {args.fp8}"
    if devices.count == 0:
        raise UsageError(f"{asked} needs a GPU with FP8, and none is visible; on a CPU leave it out")
    if not devices.has_fp8:
        raise UsageError(
            f"{asked} needs a GPU with FP8 (Hopper, Ada or newer), and {devices.name} has none: give "
            f"--srp-precision bf16"
        )
    if args.fp8_recipe == "blockwise" and not devices.has_blockwise_fp8:
        raise UsageError(
            f"{asked} with --fp8-recipe blockwise needs {BLOCKWISE_NEEDS}; this is "
            f"{devices.name} with CUDA {'.'.join(map(str, devices.cuda))}: give --srp-precision fp8-tensorwise"
        )
    if no_engine:
        raise UsageError(
            f"{asked} needs Transformer Engine, which {no_engine}: {_way_to_engine(no_engine)}; or give "
            f"--srp-precision bf16"
        )


def check_port() -> None:
    """Refuse an address that another process has taken, where rank 0 itself will listen on it.

    Under torchrun its agent listens. Without, the other ranks would wait for rank 0 for ten minutes.
    """
    import socket

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or os.environ.get("RANK", "0") != "0":
        return
    port = os.environ.get("MASTER_PORT")
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"MASTER_PORT {port} cannot be listened on ({reason}): another job may have it; set MASTER_PORT to "
                f"a free port, the same on all nodes"
            ) from None
