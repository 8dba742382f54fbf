"""What a killed process leaves: nothing that was to end with it."""

import os
import signal
import subprocess
import sys
import time

import pytest

# A process that forks a child, and has a fork server make another; it prints their ids.
PARENT = """
import multiprocessing, os, time
from megatron_srp.training.process_ends import end_forks_with_this_process, end_with_maker

def sleep():
    end_with_maker()
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    end_forks_with_this_process()
    other = multiprocessing.get_context("forkserver").Process(target=sleep, daemon=True)
    other.start()
    forked = os.fork()
    if forked:
        print(forked, flush=True)
    time.sleep(60)
"""


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
    deadline = time.monotonic() + 10
    while any(map(is_there, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [pid for pid in children if is_there(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
