"""A model named on the command line that cannot be one, found out before anything is loaded or downloaded."""

from pathlib import Path

from megatron_srp.errors import UsageError

_TRACKER = "latest_checkpointed_iteration.txt"


def check_model_folder(flag: str, name: str) -> None:
    """Raise UsageError for a path to nothing, or to a Megatron checkpoint. A name on the hub is left to be looked up.

    Args:
        flag: the flag or argument that has the name, for the message.
    """
    folder = Path(name)
    if folder.is_dir():
        if (folder / _TRACKER).exists() or folder.name.startswith("iter_"):
            raise UsageError(f"{flag} {name} is a Megatron checkpoint; export it first: srp export {name} FOLDER")
        if not (folder / "config.json").exists():
            raise UsageError(f"{flag} {name}: no config.json there; pass a folder that `srp export` wrote")
    elif folder.exists():
        raise UsageError(f"{flag} {name} is a file; pass the folder that `srp export` wrote")
    elif _looks_local(name):
        raise UsageError(f"{flag} {name}: no such folder; pass one that `srp export` wrote, or a name on the hub")


def _looks_local(name: str) -> bool:
    """The hub has names like `model` and `owner/model`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or ("/" in name and Path(name).parent.is_dir())
