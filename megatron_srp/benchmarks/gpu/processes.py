"""Commands run to their end or a limit, of which nothing is left afterwards."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from megatron_srp.benchmarks.gpu.janitor import MARK, end_marked
from megatron_srp.training.process.process_ends import ends_with_this_process

SAVE_EVERY_S = 10.0
_LOOK_EVERY_S = 0.1
_GIVE_UP_S = 10.0  # a process that is stuck in the driver does not end even when killed


@dataclass(frozen=True)
class Command:
    """A process to start: its arguments, its log's name, and what its environment has besides the common one."""

    argv: Sequence[object]
    log: str
    environment: dict[str, str] = field(default_factory=dict)


def run_together(
    commands: Sequence[Command],
    logs: Path,
    environment: dict[str, str],
    limit_s: float,
    meanwhile: Callable[[], None],
) -> list[int | None]:
    """Run commands at once; none of what they have started is left then.

    Args:
        logs: folder of what they print.
        environment: with a `MARK` that is these commands' alone.
        meanwhile: called every ten seconds.

    Returns:
        Exit codes; None for what was ended at the limit.
    """
    deadline = time.monotonic() + limit_s
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes += (_start(command, logs / command.log, environment) for command in commands)
        next_call = time.monotonic() + SAVE_EVERY_S
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
            if time.monotonic() >= next_call:
                meanwhile()
                next_call = time.monotonic() + SAVE_EVERY_S
        return [process.poll() for process in processes]
    finally:
        _end(processes)
        end_marked(environment[MARK], {os.getpid()})


def _start(command: Command, log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    argv = list(map(str, command.argv))
    with log.open("ab") as file:
        file.write(f"$ {' '.join(argv)}\n".encode())
        file.flush()
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment | command.environment,
            process_group=0,
            preexec_fn=ends_with_this_process(),
        )


def _end(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GIVE_UP_S)


def ended(code: int | None, log: str) -> tuple[str, str]:
    """Status and reason of a process: its exit code (None: stopped at its limit), and its last line on an error."""
    if code is None:
        return "timeout", "stopped at its limit"
    if code == 0:
        return "ok", ""
    errors = [line for line in log.splitlines() if "error" in line.lower()]
    return "failed", errors[-1].strip()[:200] if errors else f"exit code {code}, see its log"
