"""Entry point for the fork server: train, and kill a rank's checkpoint worker, or what it needs, at a moment."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """`kill_checkpoint_worker RANK WHICH PATTERN [flags of a run]`: once a file matches, kill -9 one process of that
    rank: its "worker", or the "manager" of the worker's results."""
    from megatron_srp.training import pretrain

    rank, which, pattern = sys.argv.pop(1), sys.argv.pop(1), Path(sys.argv.pop(1))
    if os.environ["RANK"] == rank:
        threading.Thread(target=_kill, args=(which, pattern), daemon=True).start()
    pretrain.main()


def _kill(which: str, pattern: Path) -> None:
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.dist_checkpointing.strategies.async_utils import PersistentAsyncCaller

    while not any(pattern.parent.parent.glob(f"{pattern.parent.name}/{pattern.name}")):
        time.sleep(0.001)
    manager: Any = filesystem_async.get_write_results_queue()
    killed = PersistentAsyncCaller._persistent_process if which == "worker" else manager._manager._process
    os.kill(killed.pid, signal.SIGKILL)
