"""A rank that does what a line of its argument says, without Megatron: one word a rank: sleep, fail,
finish, save (as Megatron does at SIGTERM), or a number of micro-batches to do before it hangs."""

import os
import signal
import sys
import time

from megatron_srp.errors import InputError
from megatron_srp.training.process.exits import exit_alone
from megatron_srp.training.process.progress import count_micro_batches

do = sys.argv[1].split(",")[int(os.environ["RANK"])]
print(f"started rank {os.environ['RANK']}", flush=True)
if do == "fail":
    exit_alone(InputError("the shard x.bin is damaged"))
if do.isdigit():
    step = count_micro_batches(lambda: None, timeout_minutes=0.5)
    for _ in range(int(do)):
        step()
if do == "save":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
launcher = os.getppid()
while do != "finish" and os.getppid() == launcher:  # of a launcher that a test has killed nothing is left
    time.sleep(0.05)
