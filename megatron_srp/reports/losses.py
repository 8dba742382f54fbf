"""The loss curve that Megatron's trainer logged."""

from pathlib import Path

from megatron_srp.errors import InputError

TAG = "lm loss"


def read_losses(folder: str | Path) -> list[tuple[int, float]]:
    """(step, loss) from the TensorBoard files in `folder`; raises InputError when there are none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    if TAG not in events.Tags()["scalars"]:
        raise InputError(f"{folder}: no TensorBoard files with {TAG!r}; train with --tensorboard-dir {folder}")
    return [(event.step, event.value) for event in events.Scalars(TAG)]
