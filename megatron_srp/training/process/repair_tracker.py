"""Where a run that was killed goes on: the file that names the latest checkpoint, kept readable.

Megatron writes `latest_checkpointed_iteration.txt` in place, after the checkpoint is complete. A run
killed at that moment leaves it empty, or not there after the first save: the next would exit without
a word, or begin anew over what is there. Imports neither torch nor Megatron.
"""

from pathlib import Path

from megatron_srp.files import write_text

TRACKER = "latest_checkpointed_iteration.txt"


def complete_checkpoints(folder: Path) -> list[int]:
    """Iterations with a checkpoint in `folder` that was complete when it was saved, the newest first."""
    # metadata.json is written last, when all of a checkpoint is on disk.
    names = (path.parent.name.removeprefix("iter_") for path in folder.glob("iter_*/metadata.json"))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def latest_iteration(folder: Path) -> int | None:
    """What the tracker of `folder` names or, where a kill has lost that, what `repair_tracker` would have it name."""
    tracker = folder / TRACKER
    content = tracker.read_text().strip() if tracker.is_file() else ""
    return int(content) if content.isdigit() else _lost_iteration(folder, content)


def _lost_iteration(folder: Path, content: str) -> int | None:
    # A run that went back on purpose writes again what it had left: the latest is not the highest.
    complete = sorted(folder.glob("iter_*/metadata.json"), key=lambda path: path.stat().st_mtime_ns)
    if content.isdigit() or content == "release" or not complete:
        return None
    return int(complete[-1].parent.name.removeprefix("iter_"))


def repair_tracker(folder: Path) -> str | None:
    """Name the latest complete checkpoint in the tracker of `folder` if a kill has lost its name.

    A tracker that names an iteration is left alone: whoever goes back on purpose edits it.

    Returns:
        What was done, for the user, or None where there was nothing to do.
    """
    tracker = folder / TRACKER
    iteration = _lost_iteration(folder, tracker.read_text().strip() if tracker.is_file() else "")
    if iteration is None:
        return None
    write_text(tracker, str(iteration))
    return f"{tracker} was lost when the run was stopped: going on from iteration {iteration}, complete on disk"
