#!/usr/bin/env python3
"""Put safety reflections into chat data, for post-training and fine-tuning."""

import sys

from megatron_srp.cli.sft import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
