#!/usr/bin/env python3
"""Ask a chat model for hints from segment to segment, and keep them in an annotation store."""

import sys

from megatron_srp.cli.hints import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
