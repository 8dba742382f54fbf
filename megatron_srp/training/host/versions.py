"""Which releases of megatron-core the hooks have been tested with; docs/guides/your-own-script.md has the table."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from megatron_srp.errors import UsageError

TESTED = ("0.19", "0.20")
INSTALL = "pip install 'megatron-core[training]>=0.19.2,<0.21'"


def is_tested(version: str) -> bool:
    """Whether a version such as "0.20.0+git1234" belongs to a release that was tested."""
    return ".".join(version.split(".")[:2]) in TESTED


def check_host() -> None:
    """Refuse a host whose data classes may have changed: reflections would be lost without a word.

    Raises:
        UsageError: when the release of megatron-core was not tested.
        ModuleNotFoundError: when there is none.
    """
    version = host_version()
    if not is_tested(version):
        raise UsageError(
            f"megatron-core {version} is installed; the hooks are written for {' and '.join(TESTED)}. Install it with: "
            f"{INSTALL}"
        )


def host_version() -> str:
    """The version of megatron.core, not imported for it: an old one may fail with the torch that is here."""
    if core := sys.modules.get("megatron.core"):
        return str(core.__version__)
    spec = find_spec("megatron.core")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'megatron.core'", name="megatron.core")
    version: str = runpy.run_path(str(Path(spec.submodule_search_locations[0], "package_info.py")))["__version__"]
    return version
