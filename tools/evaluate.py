#!/usr/bin/env python3
"""Attack and evaluate a model: the paper's tables, with a report to read."""

import sys

from megatron_srp.cli.evaluate import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
