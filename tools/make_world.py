#!/usr/bin/env python3
"""Make a MedSafetyWorld: corpus, true labels, and sets to fine-tune on and to test with."""

import sys

from megatron_srp.errors import run_command
from megatron_srp.medsafetyworld.cli import main

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
