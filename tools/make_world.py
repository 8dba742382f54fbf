#!/usr/bin/env python3
"""Make a MedSafetyWorld: corpus, true labels, and sets to fine-tune on and to test with."""

import sys

from megatron_srp.cli.world_make import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
