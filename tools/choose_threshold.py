#!/usr/bin/env python3
"""Choose --unsafe-threshold from answers to harmful and to benign prompts."""

import sys

from megatron_srp.cli.threshold import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
