"""Whether the nodes of a run have the same software: other versions train, and then fail or differ."""

import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from megatron_srp.errors import UsageError

_PACKAGES = ("megatron-srp", "megatron-core", "torch", "transformer-engine")
SECONDS_BETWEEN_CLOCKS = 60.0
_KEY = "srp/facts"


def check_same(store: Any, node: int) -> None:
    """Compare this node with node 0, over the store that they share.

    Raises:
        UsageError: with what differs.
    """
    own = _facts()
    if node == 0:
        store.set(_KEY, json.dumps(own))
        return
    found = differences(json.loads(store.get(_KEY)), own)
    if found:
        where = f"node {node} ({platform.node()})"
        raise UsageError(f"{where} differs from node 0: {'; '.join(found)}; make them equal, then start again")


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """One phrase for each fact that differs; clocks may, by the time that nodes take to meet."""
    found = [
        f"{name} {there.get(name)} there and {value} here"
        for name, value in here.items()
        if name != "clock" and there.get(name) != value
    ]
    apart = abs(there["clock"] - here["clock"])
    return [*found, f"its clock is {apart:.0f} s apart"] if apart > SECONDS_BETWEEN_CLOCKS else found


def _facts() -> dict[str, Any]:
    versions = {name: _version(name) for name in _PACKAGES}
    return {"Python": platform.python_version(), **versions, "clock": time.time()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
