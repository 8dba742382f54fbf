"""Which releases of megatron-core the hooks have been tested with; docs/guides/your-own-script.md has the table."""

from megatron_srp.errors import UsageError

TESTED = ("0.19", "0.20")
INSTALL = "pip install 'megatron-core[training]>=0.19.2,<0.21'"


def is_tested(version: str) -> bool:
    """Whether a version such as "0.20.0+git1234" belongs to a release that was tested."""
    return ".".join(version.split(".")[:2]) in TESTED


def check_version(version: str) -> None:
    """Refuse a host whose data classes may have changed: reflections would be lost without a word."""
    if not is_tested(version):
        raise UsageError(
            f"megatron-core {version} is installed; the hooks are written for {' and '.join(TESTED)}. Install it with: "
            f"{INSTALL}"
        )
