#!/usr/bin/env python3
"""Run the MedSafetyWorld experiment: make worlds, train on them, attack the models, write a report."""

import sys
from pathlib import Path

from megatron_srp.cli.world_run import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], Path(__file__).parent))
