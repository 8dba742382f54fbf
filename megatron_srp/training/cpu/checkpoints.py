"""The parts of Megatron's checkpoint saving without a CPU path. Part of the CPU backend, whose patches it needs."""

import queue
from typing import Any


def patch_checkpoints() -> None:
    """Let asynchronous saves run on the CPU."""
    _fork_checkpoint_worker()
    _copy_before_writing()


def write_checkpoints_in_process() -> None:
    """Pass the results of a synchronous checkpoint through an ordinary queue.

    Megatron starts a manager process for them, which imports the whole trainer again (5 to 10 s
    per rank on a small CPU) and outlives a rank that is killed. Only `--async-save` needs it.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    filesystem_async._results_queue = queue.Queue()


def _fork_checkpoint_worker() -> None:
    # Megatron starts the worker of --async-save from a fork server at first, and by "spawn" for a save after the
    # last step. The CPU patches apply in neither: it would divide by the number of GPUs and die.
    from megatron.core.dist_checkpointing.strategies.async_utils import PersistentAsyncCaller

    start: Any = PersistentAsyncCaller._get_process  # bound to the class
    PersistentAsyncCaller._get_process = lambda rank, mode="fork", *qos: start(rank, "fork", *qos)


def _copy_before_writing() -> None:
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    FileSystemWriterAsync.preload_tensors = staticmethod(copy_tensors)


def copy_tensors(write_buckets: list[Any], non_blocking: bool = True) -> list[Any]:
    """Replaces Megatron's copy to the host, while training waits: its `Tensor.to("cpu")` copies nothing here.

    The worker of --async-save would write weights that later steps have changed. It gets this function by name.
    """
    return [
        (file, key, (data, [(item, tensor.clone()) for item, tensor in tensors]))
        for file, key, (data, tensors) in write_buckets
    ]
