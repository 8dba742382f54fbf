"""A connection to a Ray cluster, with one-line errors."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from megatron_srp.errors import OutputError, UsageError

_TRIES = 3
_TOKEN = (
    "a recent `ray start` may ask for one: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as where "
    "`ray start --head` ran, and the same version of Ray"
)


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Ray, as `start_ray` connects it, until the block is left."""
    ray = start_ray(address)
    # Ray prints paragraphs about a lost worker to stdout.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            yield ray
        finally:
            ray.shutdown()


def start_ray(address: str | None) -> Any:
    """Ray, connected to the cluster at `address` or at $RAY_ADDRESS, else to a new one on this machine.

    Raises:
        UsageError: when Ray is not installed, or no cluster answers.
        OutputError: when Ray does not start on this machine.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"  # Ray's own default may find a dead cluster
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed; pip install 'megatron-srp[ray]'") from None
    try:
        _knock(address)
    except OSError as error:
        raise UsageError(f"no Ray cluster answers at {address} ({error})") from None
    try:
        _start(ray, address)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        if address == "local":
            raise OutputError(f"Ray does not start on this machine ({reason}); is it overloaded?") from None
        raise UsageError(
            f"the Ray cluster at {address} answers, but refuses this program ({reason}); {_TOKEN}"
        ) from None
    return ray


def _start(ray: Any, address: str) -> None:
    """`ray.init`. It gives up after half a minute, so try again on a busy machine."""
    for left in reversed(range(_TRIES if address == "local" else 1)):
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception:  # Ray raises just that
            ray.shutdown()
            if not left:
                raise


def _knock(address: str) -> None:
    """Raises OSError when nothing listens at `host:port`; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
