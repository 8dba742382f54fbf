"""Runs the steps of a graph, several at a time, and resumes where it stopped.

    OUT/steps/NAME.json    how far a step is: its fingerprint and command, `started` or `done`, seconds, CPU seconds
                           (of the last start, if it was resumed)
    OUT/steps/NAME.log     what it printed

A step whose marker says `done` with its fingerprint is not run again. One that was started with it resumes from
its existing files, if its command can use them. In any other case its results are removed first.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.files import make_folder, try_lock, write_json
from megatron_srp.medsafetyworld.experiment.graph import Step
from megatron_srp.training.process.process_ends import ends_with_this_process

_ROOT = Path(__file__).parents[3]
_TAIL = 15  # lines of a failed step's log


class Watcher(Protocol):
    """Receives events; `tick` is called about every half second."""

    def started(self, step: Step, log: Path) -> None: ...
    def ended(self, step: Step, seconds: float, skipped: bool) -> None: ...
    def tick(self) -> None: ...


class Runner:
    """One run of a graph in the folder `out`; close it at the end.

    Args:
        jobs: steps at a time.

    Raises:
        UsageError: when another run works in `out`, or it holds something else.
    """

    def __init__(self, out: Path, jobs: int, watcher: Watcher) -> None:
        self.out, self.jobs, self._watcher = out.absolute(), jobs, watcher
        self._state = self.out / "steps"
        _refuse_foreign(self.out)
        make_folder(self._state)
        self._lock = _take_lock(self._state, self.out)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped = threading.Event()

    def run(self, steps: Sequence[Step]) -> None:
        """Do all steps, each after what it needs.

        Raises:
            OutputError: for a step that fails, with the end of its log. The others are stopped, and resume next time.
        """
        waiting, done, futures = list(steps), set[str](), dict[Future[None], Step]()
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while waiting or futures:
                    ready = [step for step in waiting if all(need.name in done for need in step.needs)]
                    for step in ready[: self.jobs - len(futures)]:
                        waiting.remove(step)
                        futures[pool.submit(self._do, step)] = step
                    finished, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
                        done.add(futures.pop(future).name)
                    self._watcher.tick()
            finally:
                self._stop()

    def close(self) -> None:
        """Let another run work in the folder."""
        os.close(self._lock)

    def _stop(self) -> None:
        self._stopped.set()
        for process in list(self._running.values()):
            process.kill()

    def _do(self, step: Step) -> None:
        if self._stopped.is_set():
            return
        marker, begun = self._path(step, "json"), time.monotonic()
        state = _read(marker)
        known = state.get("fingerprint") == step.fingerprint
        if known and state["state"] == "done" and all((self.out / result).exists() for result in step.results):
            self._watcher.ended(step, state["seconds"], skipped=True)
            return
        if not (known and state["state"] == "started"):
            self._remove_results(step)
        make_folder(marker.parent)
        begun_as = {"fingerprint": step.fingerprint, "command": self._command(step)[1:]}
        write_json(marker, {**begun_as, "state": "started"})
        self._watcher.started(step, self._path(step, "log"))
        cpu = self._execute(step)
        seconds = round(time.monotonic() - begun, 1)
        done = {**begun_as, "state": "done", "seconds": seconds, "cpu_seconds": round(cpu, 1)}
        write_json(marker, done)
        self._watcher.ended(step, seconds, skipped=False)

    def _execute(self, step: Step) -> float:
        """Run the command; the CPU time of it and its children, in seconds."""
        for result in step.results:
            make_folder((self.out / result).parent)
        log = self._path(step, "log")
        with log.open("wb") as file:
            process = subprocess.Popen(
                self._command(step),
                cwd=self.out,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                preexec_fn=ends_with_this_process(),
            )
        self._running[step.name] = process
        if self._stopped.is_set():
            process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        del self._running[step.name]
        if code and not self._stopped.is_set():
            tail = "; ".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
            raise OutputError(f"{step.name} failed with exit code {code}; the end of {log}: {tail}")
        if code:
            raise OutputError(f"{step.name} was stopped")
        return usage.ru_utime + usage.ru_stime

    def _environment(self) -> dict[str, str]:
        """A step runs in another folder, and finds this package even where it is not installed."""
        paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        return {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": paths}

    def _command(self, step: Step) -> list[str]:
        return [sys.executable, *step.command, *step.free]

    def _path(self, step: Step, suffix: str) -> Path:
        return self._state / f"{step.name}.{suffix}"

    def _remove_results(self, step: Step) -> None:
        for result in step.results:
            path = self.out / result
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _read(marker: Path) -> dict[str, Any]:
    return dict(json.loads(marker.read_text())) if marker.is_file() else {}


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / "steps").is_dir() or not any(out.iterdir()))):
        raise UsageError(f"{out} exists but is not a run folder; pass a new folder, or one of an earlier run")


def _take_lock(folder: Path, out: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    if not try_lock(descriptor):
        os.close(descriptor)
        raise UsageError(f"another run is working in {out}; wait for it, or pass another folder")
    return descriptor
