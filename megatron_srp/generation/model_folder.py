"""Refuse a name that cannot be a model before anything is loaded or downloaded."""

from pathlib import Path

from megatron_srp.errors import UsageError
from megatron_srp.remote.hub_models import check_model_name

_TRACKER = "latest_checkpointed_iteration.txt"


def check_model_folder(name: str) -> None:
    """Raise UsageError for a path that is missing or a Megatron checkpoint, and a name that the hub lacks."""
    folder = Path(name)
    if folder.is_dir():
        if (folder / _TRACKER).exists() or folder.name.startswith("iter_"):
            raise UsageError(f"model {name} is a Megatron checkpoint; export it first: srp export {name} FOLDER")
        if not (folder / "config.json").exists():
            raise UsageError(f"model {name}: has no config.json; pass a folder that `srp export` wrote")
    elif folder.exists():
        raise UsageError(f"model {name} is a file; pass the folder that `srp export` wrote")
    elif _looks_local(name):
        raise UsageError(f"model {name}: no such folder; pass one that `srp export` wrote, or a name on the hub")
    else:
        check_model_name("model", name)


def _looks_local(name: str) -> bool:
    """Names on the hub look like `model` or `owner/model`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or ("/" in name and Path(name).parent.is_dir())
