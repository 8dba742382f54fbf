"""`srp --version`: this package, and the versions of its dependencies, without importing any of them."""

import platform
from importlib.metadata import PackageNotFoundError, version

from megatron_srp import __version__

STACK = (
    *("megatron-core", "torch", "transformer-engine", "transformers", "tokenizers", "gigatoken", "numpy", "pyarrow"),
    *("vllm", "ray"),
)


def describe_versions() -> str:
    """One line for each part, `not installed` where it is missing."""
    rows = [("megatron-srp", __version__), ("python", platform.python_version())]
    rows += [(name, _version(name)) for name in STACK]
    return "\n".join(f"{name:<20}{found}" for name, found in rows)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
