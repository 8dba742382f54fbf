#!/usr/bin/env python3
"""The data job under its own name: the same as `srp preprocess`."""

import sys

from megatron_srp.cli import main

if __name__ == "__main__":
    main(["preprocess", *sys.argv[1:]])
