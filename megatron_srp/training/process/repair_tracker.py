"""Where a run that was killed goes on: the file that names the latest checkpoint, kept readable.

Megatron writes `latest_checkpointed_iteration.txt` in place, after the checkpoint is complete. A run
killed at that moment leaves it empty, or not there after the first save: the next would exit without
a word, or begin anew over what is there. Imports neither torch nor Megatron.
"""

from pathlib import Path

TRACKER = "latest_checkpointed_iteration.txt"


def repair_tracker(folder: Path) -> str | None:
    """Name the latest complete checkpoint in the tracker of `folder` if a kill has lost its name.

    A tracker that names an iteration is left alone: whoever goes back on purpose edits it.

    Returns:
        What was done, for the user, or None where there was nothing to do.
    """
    tracker = folder / TRACKER
    content = tracker.read_text().strip() if tracker.is_file() else ""
    # metadata.json is written last, when all of a checkpoint is on disk.
    complete = sorted(folder.glob("iter_*/metadata.json"), key=lambda path: path.stat().st_mtime_ns)
    if content.isdigit() or content == "release" or not complete:
        return None
    iteration = int(complete[-1].parent.name.removeprefix("iter_"))
    whole = tracker.with_name(f"{TRACKER}.tmp")
    whole.write_text(str(iteration))
    whole.replace(tracker)
    return f"{tracker} was lost when the run was stopped: going on from iteration {iteration}, complete on disk"
