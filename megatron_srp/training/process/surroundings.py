"""The environment that torchrun and Megatron expect in the process, and warnings that need not be shown."""

import logging
import os
import warnings

from megatron_srp.training.process.exits import rank


def set_environment() -> None:
    """Set the variables of a single-process job if torchrun has set none; the user's own settings win."""
    # Overlapping tensor-parallel communication relies on kernels being launched in order.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    # Data loader workers are forked after the tokenizer's thread pool has started.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "WORLD_SIZE" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")  # the system picks one when torch listens


def warn_once() -> None:
    """Leave warnings to rank 0: Megatron and torch show the same ones on each rank."""
    if rank():
        warnings.simplefilter("ignore")


def ignore_missing_cuda_extensions() -> None:
    """Suppress a dozen warnings that Apex, Transformer Engine and CUDA are missing: no news on a CPU."""
    warnings.filterwarnings("ignore", module=r"megatron\.")
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
