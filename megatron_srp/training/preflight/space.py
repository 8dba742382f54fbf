"""Whether a folder's disk has room for the checkpoints that a run keeps."""

import shutil
from pathlib import Path

from megatron_srp.errors import OutputError
from megatron_srp.training.flags.model_preset import ModelPreset

# Per parameter: the bf16 weight, and of the optimizer the fp32 weight and Adam's two moments.
BYTES_PER_PARAMETER = 2 + 4 + 2 * 4


def checkpoint_bytes(preset: ModelPreset) -> int:
    """Of one checkpoint with its optimizer, about: the metadata come to it."""
    return BYTES_PER_PARAMETER * preset.num_params


def check_space(folder: Path, preset: ModelPreset, count: int) -> str:
    """Compare the free space with what `count` checkpoints take. Returns a line on it.

    Those that a run to be resumed has in `folder` have their space; the next one needs some before an old one goes.

    Raises:
        OutputError: where they do not fit.
    """
    count = max(1, count - len([*folder.glob("iter_*"), *folder.glob("*/iter_*")]))
    free, needed = shutil.disk_usage(folder).free, count * checkpoint_bytes(preset)
    more = "1 more checkpoint" if count == 1 else f"{count} more checkpoints"
    line = f"{free / 1e9:,.1f} GB free, and {more} of {preset.name} will take {needed / 1e9:,.1f} GB"
    if needed > free:
        raise OutputError(f"--out {folder}: {line}; free some, pass another folder, or fewer --checkpoints")
    return line
