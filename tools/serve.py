#!/usr/bin/env python3
"""Serve guarded answers over HTTP, as OpenAI's API does."""

import sys

from megatron_srp.cli.serve import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
