"""Entry point for the fork server: train, and write the process's memory at every step to a file."""

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """`record_memory FILE [flags of a run]`: KiB of resident and of virtual memory, a line per forward step."""
    from megatron_srp.training import pretrain
    from megatron_srp.training.trainer import run as trainer

    file = Path(sys.argv.pop(1))
    forward_step = trainer.forward_step

    def recording(*args: Any) -> Any:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        with file.open("a") as lines:
            print(status["VmRSS"].split()[0], status["VmSize"].split()[0], file=lines)
        return forward_step(*args)

    vars(trainer)["forward_step"] = recording
    pretrain.main()
