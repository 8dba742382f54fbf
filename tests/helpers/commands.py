"""The command line as a user runs it, in a process of its own."""

import subprocess
import sys
from typing import Any

SRP = [sys.executable, "-m", "megatron_srp"]


def srp(*argv: Any, **options: Any) -> subprocess.CompletedProcess:
    """`srp ARGV`, with its output as text; a run that hangs fails.

    Args:
        options: of `subprocess.run`.
    """
    settings = {"capture_output": True, "text": True, "timeout": 600, **options}
    return subprocess.run([*SRP, *map(str, argv)], **settings)
