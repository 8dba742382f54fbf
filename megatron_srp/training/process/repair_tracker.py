"""Where a killed run resumes: repairs the file that names the latest checkpoint.

Megatron writes `latest_checkpointed_iteration.txt` in place, after the checkpoint is complete. A run
killed at that moment leaves it empty, or missing after the first save: the next would exit silently,
or start from scratch and overwrite what is there. Imports neither torch nor Megatron.
"""

from pathlib import Path

from megatron_srp.files import write_text

TRACKER = "latest_checkpointed_iteration.txt"


def complete_checkpoints(folder: Path) -> list[int]:
    """Iterations with a checkpoint in `folder` that was saved completely, newest first."""
    # metadata.json is written last, when the whole checkpoint is on disk.
    names = (path.parent.name.removeprefix("iter_") for path in folder.glob("iter_*/metadata.json"))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def latest_iteration(folder: Path) -> int | None:
    """The tracker's iteration in `folder` or, if a kill has lost it, the one that `repair_tracker` would write."""
    tracker = folder / TRACKER
    content = tracker.read_text().strip() if tracker.is_file() else ""
    return int(content) if content.isdigit() else _lost_iteration(folder, content)


def _lost_iteration(folder: Path, content: str) -> int | None:
    # A run that was rewound on purpose saves earlier iterations again: the latest is not the highest.
    complete = sorted(folder.glob("iter_*/metadata.json"), key=lambda path: path.stat().st_mtime_ns)
    if content.isdigit() or content == "release" or not complete:
        return None
    return int(complete[-1].parent.name.removeprefix("iter_"))


def repair_tracker(folder: Path) -> str | None:
    """Write the latest complete checkpoint into the tracker of `folder` if a kill has lost it.

    A tracker that names an iteration is left alone: users edit it to rewind a run.

    Returns:
        A line for the user on what was done, or None if nothing was.
    """
    tracker = folder / TRACKER
    iteration = _lost_iteration(folder, tracker.read_text().strip() if tracker.is_file() else "")
    if iteration is None:
        return None
    write_text(tracker, str(iteration))
    return f"{tracker} was lost when the run was stopped: resuming from iteration {iteration}, complete on disk"
