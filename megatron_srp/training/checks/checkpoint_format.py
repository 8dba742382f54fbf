"""Whether this version can read a checkpoint: Megatron itself loads one of a newer format without a word."""

import json
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError

# The newest format of each part. `srp_data` has its version in the arguments, as `srp_data_version`.
_TORCH_DIST, _MEGATRON, SRP_DATA = 1, 3.0, 1


def check_format(folder: Path, common: dict[str, Any]) -> None:
    """Refuse a checkpoint of a newer format.

    Args:
        common: what it keeps besides tensors; Megatron's `load_common_state_dict` returns it.

    Raises:
        InputError: with the part that is newer.
        ValueError: when metadata.json is damaged.
    """
    backend = json.loads((folder / "metadata.json").read_text())
    versions = {
        "torch_dist": (backend.get("sharded_backend_version", 1), _TORCH_DIST),
        "Megatron's checkpoint version": (common.get("checkpoint_version", 0), _MEGATRON),
        "the record of its data": (getattr(common.get("args"), "srp_data_version", 1), SRP_DATA),
    }
    for name, (found, newest) in versions.items():
        if found > newest:
            raise InputError(
                f"{folder} is of a newer format: {name} {found}, and this version reads up to {newest}; install the "
                "versions of megatron-srp and Megatron that wrote it, or newer ones"
            )
