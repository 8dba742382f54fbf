#!/usr/bin/env python3
"""Judge every segment of a corpus once, and keep the verdicts in an annotation store."""

import sys

from megatron_srp.cli.annotate import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
