"""The first exchange of data among all ranks: gloo for facts, and an all-reduce over the backend of the training."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.training.checks.addresses import interfaces, local_address
from megatron_srp.training.process.exits import rank

SECONDS_FOR_AN_EXCHANGE = 60
# Large enough for the bandwidth to count rather than the latency, on a GPU's network and on a test's loopback.
_MEGABYTES = {"nccl": 256, "gloo": 16}
_REPEATS = 5


@dataclass(frozen=True)
class AllReduce:
    """A measured all-reduce: seconds of the first, which connects the ranks, and mean seconds of those after it."""

    backend: str
    megabytes: int
    ranks: int
    first_s: float
    mean_s: float

    @property
    def bandwidth(self) -> float:
        """GB/s on the link of each rank: a ring sends 2 (n - 1) / n of the tensor over it (NCCL tests' "busbw")."""
        return 2 * (self.ranks - 1) / self.ranks * self.megabytes / 1000 / self.mean_s


def meet() -> None:
    """Connect all ranks over gloo.

    Raises:
        UsageError: with the variable to set, where ranks cannot connect.
    """
    _explained("gloo", lambda: dist.init_process_group("gloo", timeout=timedelta(seconds=SECONDS_FOR_AN_EXCHANGE)))


def gather(value: Any) -> list[Any]:
    """Every rank's `value`, in the order of the ranks."""
    found: list[Any] = [None] * dist.get_world_size()
    _explained("gloo", lambda: dist.all_gather_object(found, value))
    return found


def measure_all_reduce(backend: str) -> AllReduce:
    """Time an all-reduce of fp32 over `backend`, "gloo" or "nccl"; all ranks call it.

    Raises:
        UsageError: with the variable to set, where ranks cannot connect.
        OutputError: when the sum is wrong.
    """
    megabytes, ranks = _MEGABYTES[backend], dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"  # an error at the time-out, not an abort of the process
    group = dist.new_group(backend=backend, timeout=timedelta(seconds=SECONDS_FOR_AN_EXCHANGE))
    tensor = torch.ones(megabytes * 10**6 // 4, device=device)
    first = _explained(backend, lambda: _timed(tensor, group))
    if not bool((tensor == ranks).all()):
        raise OutputError(f"{_here()}: an all-reduce over {backend} gives a wrong sum; test this host's hardware")
    mean = sum(_explained(backend, lambda: _timed(tensor, group)) for _ in range(_REPEATS)) / _REPEATS
    return AllReduce(backend, megabytes, ranks, first, mean)


def _timed(tensor: torch.Tensor, group: Any) -> float:
    started = time.perf_counter()
    dist.all_reduce(tensor, group=group)
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _explained[Result](backend: str, call: Callable[[], Result]) -> Result:
    try:
        return call()
    except RuntimeError as error:
        raise _cannot_connect(backend, error) from error


def _cannot_connect(backend: str, error: Exception) -> UsageError:
    master = os.environ["MASTER_ADDR"]
    reason = str(error).strip().partition("\n")[0]
    names = ", ".join(name for name in interfaces() if name != "lo") or "lo"
    debug = "; NCCL_DEBUG=INFO shows what NCCL connects to" if backend == "nccl" else ""
    return UsageError(
        f"{_here()} has met the others at {master}, and cannot exchange data with them over {backend} ({reason}); "
        f"on every node set {backend.upper()}_SOCKET_IFNAME to the interface in that network (the one with "
        f"{local_address(master)}, of {names}), and let the nodes reach each other at all ports{debug}"
    )


def _here() -> str:
    return f"rank {rank()} on {platform.node()}"
