#!/usr/bin/env python3
"""Prepare Megatron shards from JSONL or Parquet files, with a safety reflection after every segment."""

import sys

from megatron_srp.cli.preprocess import main
from megatron_srp.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
