#!/usr/bin/env python3
"""Generate with a guard that hides reflections and acts on them: a file of prompts, or a terminal chat."""

import sys

from megatron_srp.cli.generate import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
