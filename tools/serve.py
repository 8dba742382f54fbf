#!/usr/bin/env python3
"""Serve guarded answers over HTTP, as OpenAI's API does."""

import sys

from megatron_srp.errors import run_command
from megatron_srp.generation.server.cli import main

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
