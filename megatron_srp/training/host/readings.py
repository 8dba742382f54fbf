"""What a run reads, recorded at each of its starts: `SAVE/srp-readings.jsonl`, from which `srp trace` finds any sample.

A line per start: the iteration and the number of samples it begins with, its batch size, and all that determines the
order of the samples. A run that was resumed has several lines; a step was read by the last start before it.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError, UsageError

NAME = "srp-readings.jsonl"
# Of Megatron's dataset configuration: what the order of the samples depends on.
CONFIG_FIELDS = (
    *("random_seed", "sequence_length", "blend", "blend_per_split", "split", "mid_level_dataset_surplus"),
    *("add_extra_token_to_sequence", "full_validation", "multiple_validation_sets"),
    *("object_storage_cache_path", "mmap_bin_files"),  # with which a shard on object storage is read again
)


@dataclass(frozen=True)
class Reading:
    """One start of a run.

    Attributes:
        iteration, consumed_samples: of the checkpoint it starts from; 0 from scratch.
        global_batch_size: in sequences; None where it changes during the run.
        loader: Megatron's --dataloader-type.
        sizes: samples asked for: to train, validate and test on.
        config: `CONFIG_FIELDS` of the datasets.
        fingerprints: of the sidecars, by their data paths.
    """

    iteration: int
    consumed_samples: int
    global_batch_size: int | None
    loader: str
    sizes: list[int | None]
    config: dict[str, Any]
    fingerprints: dict[str, str]

    def first_sample(self, step: int) -> int:
        """The number of the first sample of a step, in the order in which the run reads its training data."""
        assert self.global_batch_size is not None
        return self.consumed_samples + (step - 1 - self.iteration) * self.global_batch_size

    def step_of(self, sample: int) -> int:
        """The step that reads a sample; the inverse of `first_sample`."""
        assert self.global_batch_size is not None
        return self.iteration + (sample - self.consumed_samples) // self.global_batch_size + 1


def append_reading(folder: Path, reading: Reading) -> None:
    """Add a line to the record in `folder`, the run's --save."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a") as file:
        file.write(json.dumps(asdict(reading)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def load_readings(folder: Path) -> list[Reading]:
    """All starts of the run whose --save is `folder`, in order.

    Raises:
        InputError: when nothing was recorded there.
        UsageError: for runs whose order of samples cannot be told from the record.
    """
    path = folder / NAME
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; pass the --save folder of a run that `srp train` or `srp run` started"
        ) from None
    readings = [Reading(**json.loads(line)) for line in lines if line]
    for reading in readings:
        if reading.loader != "single":
            raise UsageError(f"{path}: --dataloader-type {reading.loader} is not traced, only single")
        if reading.global_batch_size is None:
            raise UsageError(f"{path}: the batch size changes during the run, which is not traced")
    return readings


def reading_of(readings: list[Reading], step: int) -> Reading:
    """The start that read a step: the last one before it; a run that was killed repeats steps.

    Raises:
        UsageError: for a step that no start reads.
    """
    found = [reading for reading in readings if reading.iteration < step]
    if step < 1 or not found:
        first = readings[0].iteration + 1
        raise UsageError(f"--step {step}: steps are counted from 1, and the record begins at {first}")
    last = found[-1].step_of((found[-1].sizes[0] or 0) - 1)
    if step > last:
        raise UsageError(f"--step {step}: the run has {last} steps")
    return found[-1]


def spans(readings: list[Reading]) -> list[tuple[Reading, int | None]]:
    """Each start whose steps are part of the run, with the last of them (None: not known).

    A start that resumes from an earlier iteration replaces the steps after it.
    """
    kept: list[tuple[Reading, int | None]] = []
    for reading in readings:
        kept = [(other, last) for other, last in kept if other.iteration < reading.iteration]
        if kept:
            other, _ = kept[-1]
            kept[-1] = (other, reading.iteration)
        kept.append((reading, None))
    return kept
