"""Entry point for the fork server: train, and kill a rank's checkpoint worker at a moment of the run."""

import os
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """`kill_checkpoint_worker RANK PATTERN [flags of a run]`: once a file matches, kill -9 that rank's worker."""
    from megatron_srp.training import pretrain

    rank, pattern = sys.argv.pop(1), Path(sys.argv.pop(1))
    if os.environ["RANK"] == rank:
        threading.Thread(target=_kill, args=(pattern,), daemon=True).start()
    pretrain.main()


def _kill(pattern: Path) -> None:
    from megatron.core.dist_checkpointing.strategies.async_utils import PersistentAsyncCaller

    while not any(pattern.parent.parent.glob(f"{pattern.parent.name}/{pattern.name}")):
        time.sleep(0.001)
    os.kill(PersistentAsyncCaller._persistent_process.pid, signal.SIGKILL)
