"""What a killed process leaves: nothing that was to end with it; and what a scheduler's SIGTERM leaves to one that
stays: what it still needs."""

import os
import signal
import subprocess
import sys
import time

import pytest

# A process that forks a child, and has a fork server make another; it prints their ids.
PARENT = """
import multiprocessing, os, time
from megatron_srp.training.process.process_ends import end_forks_with_this_process, end_with_maker

def sleep():
    end_with_maker()
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    end_forks_with_this_process()
    other = multiprocessing.get_context("forkserver").Process(target=sleep, daemon=True)
    other.start()
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


# The same, but they are not to hear of a SIGTERM; the parent hears of it, and says whether its child lives.
TERMINATED = (
    PARENT.partition("if __name__")[0].replace("end_with_maker\n", "end_with_maker, beyond_sigterm\n")
    + """
import signal, sys

if __name__ == "__main__":
    came = []
    signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    for method in ("forkserver", "fork"):
        with beyond_sigterm():
            child = multiprocessing.get_context(method).Process(target=sleep, daemon=True)
            child.start()
    while not came:
        time.sleep(0.01)
    time.sleep(0.2)
    print(*(child.is_alive() for child in multiprocessing.active_children()), flush=True)
    os._exit(0)
"""
)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own doing, on Linux only")
def test_children_of_a_killed_process(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(map(is_there, children))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert not left_of(children)


def left_of(children: list[int]) -> list[int]:
    """Those that are there after a minute; they are killed then."""
    deadline = time.monotonic() + 60
    while any(map(is_there, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [pid for pid in children if is_there(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def test_sigterm_for_all_processes_at_once(tmp_path):
    """As torchrun does it: the whole process group of a rank."""
    script = tmp_path / "parent.py"
    script.write_text(TERMINATED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    os.killpg(parent.pid, signal.SIGTERM)
    assert parent.stdout.readline() == "True True\n"
    assert all(map(is_there, children))
    parent.wait()
    assert not left_of(children)
