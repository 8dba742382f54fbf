"""Import Megatron once, then fork the ranks of every run: a third of the time of torchrun.

Reads one run per line of stdin, as JSON: `{"world_size": 2, "argv": [...], "log": PATH, "module": NAME, "env": {...}}`
(the module whose `main()` is run, and what its environment has besides), and answers with one line per run: the JSON
list of the ranks' exit codes. A run is stopped as torchrun does it: SIGTERM to the other ranks once one has failed,
SIGKILL after some seconds. Each rank writes to LOG.RANK; they are a process group, whose id is written to LOG.group.
"""

import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.helpers.ports import free_port, give_back

SECONDS_TO_STOP = 30.0  # as torchrun
IMPORTED_BY_RANKS = (
    "megatron_srp.training.pretrain",
    "megatron_srp.training.trainer.run",
    "megatron.core.models.mimo",
    "megatron.core.tokenizers.text.libraries",  # with it transformers' tokenizers
    "torch._dynamo",
    "torch.utils.tensorboard",
)


def train(rank: int, world_size: int, port: int, argv: list[str], log: str, module: str, env: dict[str, str]) -> None:
    """Body of one rank; never returns."""
    os.environ.update(env)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    descriptor = os.open(f"{log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["pretrain", *argv]
    code = 1
    try:
        importlib.import_module(module).main()
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(world_size: int, argv: list[str], log: str, module: str, env: dict[str, str]) -> list[int]:
    """Run one job; the exit codes by rank, negative for a signal."""
    port = free_port()
    ranks: dict[int, int] = {}
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            train(rank, world_size, port, argv, log, module, env)
        ranks[pid] = rank
        os.setpgid(pid, next(iter(ranks)))
    Path(f"{log}.group").write_text(f"{next(iter(ranks))}\n")
    codes: dict[int, int] = {}
    deadline = None
    while len(codes) < world_size:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in ranks:
            codes[ranks[pid]] = os.waitstatus_to_exitcode(status)
            if codes[ranks[pid]] != 0 and deadline is None:
                deadline = time.monotonic() + SECONDS_TO_STOP
                stop(ranks, codes, signal.SIGTERM)
        elif deadline is not None and time.monotonic() > deadline:
            stop(ranks, codes, signal.SIGKILL)
        else:
            time.sleep(0.02)
    give_back(port)
    return [codes[rank] for rank in range(world_size)]


def stop(ranks: dict[int, int], codes: dict[int, int], number: int) -> None:
    """Send a signal to the ranks that have not ended."""
    for pid, rank in ranks.items():
        if rank not in codes:
            os.kill(pid, number)


def main() -> None:
    """Import everything that a rank imports, then serve."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Megatron prints on import is no answer
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from megatron_srp.training.cpu import backend as cpu_backend
    from megatron_srp.training.process.extensions import hide_unused_wandb

    cpu_backend.install()
    hide_unused_wandb([])

    for name in IMPORTED_BY_RANKS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is shared is neither searched nor copied by the ranks' collections

    print("[]", file=answers, flush=True)  # ready
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
