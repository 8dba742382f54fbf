"""What a process has found out about objects on S3, so that it asks once."""

from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path

from megatron_srp.remote.drivers import on_s3


def remembered_on_s3[Answer](ask: Callable[[str], Answer]) -> Callable[[str | Path], Answer]:
    """A decorator: answers about objects on S3 are kept; a file on this machine may change, and is read each time."""
    ask_once = cache(ask)

    @wraps(ask)
    def answer(name: str | Path) -> Answer:
        return (ask_once if on_s3(str(name)) else ask)(str(name))

    return answer
