"""Write Megatron Bridge's `run_config.yaml` into each checkpoint, so that its AutoBridge exports it.

Relies on: `megatron.training.training` calls `save_checkpoint(iteration, ...)` by the name it imported.
"""

import functools
from pathlib import Path
from typing import Any

from megatron.training import get_args, training

from megatron_srp.training.checks.checkpoint_files import checkpoint_folder
from megatron_srp.training.host.bridge_model import write_run_config
from megatron_srp.training.process.exits import rank


def describe_checkpoints_to_bridge() -> None:
    """From now on each checkpoint on a file system has the file."""
    plain: Any = training.save_checkpoint

    @functools.wraps(plain)
    def save_checkpoint(iteration: int, *args: Any, **kwargs: Any) -> Any:
        plain(iteration, *args, **kwargs)
        run = get_args()
        folder = checkpoint_folder(Path(run.save), iteration)
        if rank() == 0 and folder.is_dir():  # not on object storage
            write_run_config(run, folder)

    training.save_checkpoint = save_checkpoint
