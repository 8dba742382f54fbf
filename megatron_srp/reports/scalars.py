"""The curves that Megatron's trainer logged: the loss and, with `--srp-log-reflections`, the right verdicts."""

from collections.abc import Sequence
from pathlib import Path

from megatron_srp.errors import InputError
from megatron_srp.schema import Verdict

LOSS = "lm loss"
Curve = list[tuple[int, float]]  # (step, value)


def read_scalars(folder: str | Path) -> dict[str, Curve]:
    """Every curve in the TensorBoard files in `folder`, by name; raises InputError when there is no loss."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    if LOSS not in tags:
        raise InputError(f"{folder}: no TensorBoard files with {LOSS!r}; train with --tensorboard-dir {folder}")
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def right_verdicts(scalars: dict[str, Curve]) -> dict[str, Curve]:
    """The curves of right verdicts, by verdict, from Safe to Unsafe; verdicts that were not logged are left out."""
    curves = {str(verdict): scalars.get(f"right verdicts: {verdict}") for verdict in Verdict}
    return {verdict: curve for verdict, curve in curves.items() if curve}


def means(curve: Sequence[tuple[int, float]], width: int) -> Curve:
    """The mean of every `width` steps, at the last of them; steps without a value are left out."""
    groups: dict[int, list[float]] = {}
    for step, value in curve:
        groups.setdefault((step - 1) // width, []).append(value)
    return [((group + 1) * width, sum(values) / len(values)) for group, values in groups.items()]
