"""Commands measured side by side: processor and wall time of each, with the spread over several runs."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_srp.errors import OutputError


@dataclass(slots=True)
class Timing:
    """What the runs of one command took: seconds of processor and wall time, and peak memory in bytes."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    memory: int = 0

    def ratios(self, other: "Timing") -> list[float]:
        """Processor time over that of `other`, round by round: neighbouring runs share the machine's conditions."""
        return [own / base for own, base in zip(self.cpu_s, other.cpu_s, strict=True)]


# Runs a command and reports what it took. A separate process: Linux counts the memory of the process that starts a
# process to that process's peak, and a benchmark that holds a corpus is larger than what it measures.
_MEASURE = """
import json, os, subprocess, sys, time
began = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
seconds = usage.ru_utime + usage.ru_stime, time.monotonic() - began
print(json.dumps([process.returncode, *seconds, usage.ru_maxrss << 10]))
"""


def measure(command: Sequence[str]) -> tuple[float, float, int]:
    """Run `command` to its end. Its processor seconds, children included, wall seconds, and peak bytes.

    Raises:
        OutputError: when it fails.
    """
    done = subprocess.run([sys.executable, "-S", "-c", _MEASURE, *command], capture_output=True, text=True)
    if done.returncode:
        raise OutputError(f"{' '.join(command)} cannot be started:\n{done.stderr[-2000:]}")
    code, cpu, wall, memory = json.loads(done.stdout)
    if code:
        raise OutputError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return cpu, wall, memory


def compare(
    commands: dict[str, list[str]], runs: int, before_each: Callable[[], None] = lambda: None
) -> dict[str, Timing]:
    """Run all commands in turn, `runs` times."""
    timings = {name: Timing() for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            before_each()
            cpu, wall, memory = measure(command)
            timings[name].cpu_s.append(cpu)
            timings[name].wall_s.append(wall)
            timings[name].memory = max(timings[name].memory, memory)
    return timings


def seconds_to_first_byte(command: Sequence[str], folder: Path, pattern: str) -> float:
    """Seconds from the start of `command` to the first byte in a file of `folder` that matches `pattern`."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not any(path.stat().st_size for path in folder.glob(pattern)):
            if process.poll() is not None:
                raise OutputError(f"{' '.join(command)} ended without writing anything to {folder}")
            time.sleep(0.002)
        seconds = time.monotonic() - began
        process.kill()
    return seconds


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the least and most: `1.05 (1.02 to 1.11)`."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"
