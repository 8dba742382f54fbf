#!/usr/bin/env python3
"""Generate with a guard that hides reflections and acts on them: a file of prompts, or a terminal chat."""

import sys

from megatron_srp.errors import run_command
from megatron_srp.generation.cli import main

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
