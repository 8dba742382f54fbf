"""A rank that does what a line of its argument says, without Megatron: "sleep", "fail" or "finish", one word a rank."""

import os
import signal
import sys
import time

from megatron_srp.errors import InputError
from megatron_srp.training.process.exits import exit_alone

do = sys.argv[1].split(",")[int(os.environ["RANK"])]
print(f"started rank {os.environ['RANK']}", flush=True)
if do == "fail":
    exit_alone(InputError("the shard x.bin is damaged"))
if do == "save":  # what Megatron does at SIGTERM, on all ranks together
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while do != "finish":
    time.sleep(0.05)
