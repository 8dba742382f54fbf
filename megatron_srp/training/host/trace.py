"""From a sample of a run to the documents it consists of, and back, through Megatron's own indices.

    trace = Trace(load_readings(folder))
    trace.parts(step=12, sample=3)              # the documents of the fourth sample of step 12
    trace.uses("out/w200.srp", sequence=7)      # the steps that read the eighth document

The datasets are built as the run built them, so blends, shuffles and epochs are Megatron's; only indices are read.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from megatron_srp.data.shards.data_path import is_sidecar
from megatron_srp.data.shards.sidecar import ReflectionSidecar, read_header, sidecar_path
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import UsageError
from megatron_srp.training.host.policy_hooks import plain_samples
from megatron_srp.training.host.readings import Reading, reading_of, spans
from megatron_srp.training.host.register import register
from megatron_srp.training.host.source_rows import source_row


@dataclass(frozen=True)
class Part:
    """Tokens of one document in a sample.

    Attributes:
        path: the data path that the run named.
        sequence: the document's number in its shard.
        begin, end: which of its tokens, as the run reads them, reflections included.
        segments: numbers of the document's segments that begin before `end` and whose reflection ends after `begin`;
            None for a shard without a sidecar.
        verdicts: of these segments, as they are written.
        source: input file and row, counted from 1, of the document, where they are known (`source_rows.py`).
    """

    path: str
    sequence: int
    begin: int
    end: int
    segments: tuple[int, ...] | None
    verdicts: tuple[str, ...]
    source: tuple[str, int] | None = None


@dataclass(frozen=True)
class Use:
    """A sample that reads some tokens of a document: number `sample` of those of `step`."""

    step: int
    sample: int
    begin: int
    end: int


class Trace:
    """The samples of a run.

    Args:
        readings: its record.

    Raises:
        UsageError: when a sidecar is no longer the one that the run read.
    """

    def __init__(self, readings: list[Reading]) -> None:
        register()
        self._readings = readings
        self._datasets: dict[int, Any] = {}

    def parts(self, step: int, sample: int) -> list[Part]:
        """The documents of a sample, in order; `sample` counts those of the step from 0.

        Raises:
            UsageError: for a step that the run has not read, or a sample that the step does not have.
        """
        reading = reading_of(self._readings, step)
        if not 0 <= sample < self.batch_size(step):
            raise UsageError(f"--sample {sample}: step {step} has the samples 0 to {self.batch_size(step) - 1}")
        dataset, number = _locate(self._dataset(reading), reading.first_sample(step) + sample)
        before = plain_samples(dataset, number)
        dataset, number = (dataset, number) if before is None else (before, number % len(before))
        parts = [_part(dataset, *document) for document in _documents(dataset, int(dataset.shuffle_index[number]))]
        return [replace(part, source=source_row(part.path, part.sequence)) for part in parts]

    def batch_size(self, step: int) -> int:
        """Number of samples of a step."""
        return reading_of(self._readings, step).global_batch_size or 0

    def uses(self, path: str, sequence: int) -> list[Use]:
        """Where the run reads, or will read, a document, in order.

        Args:
            path: a data path of the run.
            sequence: the document's number in its shard.
        """
        found = [use for reading, last in spans(self._readings) for use in self._uses(reading, last, path, sequence)]
        return sorted(found, key=lambda use: (use.step, use.sample))

    def _uses(self, reading: Reading, last: int | None, path: str, sequence: int) -> Iterator[Use]:
        whole = self._dataset(reading)
        for number, part in _parts_with(whole, path, sequence):
            for place, begin, end in _places(part, sequence):
                for sample in _numbers(whole, number, place):
                    step = reading.step_of(sample)
                    if reading.consumed_samples <= sample < (reading.sizes[0] or 0) and step <= (last or step):
                        yield Use(step, sample - reading.first_sample(step), begin, end)

    def _dataset(self, reading: Reading) -> Any:
        key = self._readings.index(reading)
        if key not in self._datasets:
            _check_sidecars(reading)
            self._datasets[key] = _build(reading)
        return self._datasets[key]


def _check_sidecars(reading: Reading) -> None:
    for path, fingerprint in reading.fingerprints.items():
        if read_header(path)["fingerprint"] != fingerprint:
            raise UsageError(f"{path} is not the sidecar that the run read; put that one back")


def _build(reading: Reading) -> Any:
    """The run's training dataset. The order of its samples does not depend on the tokenizer."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    made_with = [read_header(path)["info"]["training_tokenizer"] for path in reading.fingerprints]
    size, eos = max((t["vocab_size"] for t in made_with), default=None), made_with[0]["eos_id"] if made_with else None
    tokenizer = SimpleNamespace(eod=eos, eos=eos, pad=-1, vocab_size=size, unique_identifiers={"class": "trace"})
    resets = dict.fromkeys(("reset_position_ids", "reset_attention_mask", "eod_mask_loss"), False)
    with tempfile.TemporaryDirectory() as cache:
        config = GPTDatasetConfig(**reading.config, **resets, tokenizer=tokenizer, path_to_cache=cache)
        return BlendedMegatronDatasetBuilder(GPTDataset, reading.sizes, lambda: True, config).build()[0]


def _locate(dataset: Any, number: int) -> tuple[Any, int]:
    """The dataset of one shard, and the sample's number in it."""
    if not hasattr(dataset, "datasets"):
        return dataset, number
    return dataset.datasets[dataset.dataset_index[number]], int(dataset.dataset_sample_index[number])


def _parts_with(whole: Any, path: str, sequence: int) -> list[tuple[int, Any]]:
    """The datasets that read the document of a data path, with their numbers in the blend.

    Args:
        whole: the dataset of the run.
        path: as the run named it, or without its folder where no other data path has that name.
        sequence: the document's number in its shard.
    """
    parts = [(i, part, _path_of(part)) for i, part in enumerate(getattr(whole, "datasets", [whole]))]
    paths = {own for _, _, own in parts}
    named = {path} & paths or {own for own in paths if Path(own).name == path}
    if len(named) != 1:
        raise UsageError(f"--document {path}: the run reads {', '.join(sorted(paths))}")
    found = [(i, part) for i, part, own in parts if own in named]
    for _, part in found:
        if sequence >= (count := len(part.dataset.sequence_lengths)):
            raise UsageError(f"--document {path}:{sequence}: it has the documents 0 to {count - 1}")
        if plain_samples(part, 0) is not None:
            raise UsageError(
                f"--document {path}: with --start-share it is not known which samples read it; pass --step"
            )
    return found


def _path_of(dataset: Any) -> str:
    """The data path that the run named; that of a sidecar ends in its fingerprint here (`register.py`)."""
    path: str = dataset.dataset_path
    return path.rpartition("@")[0] if isinstance(dataset.dataset, ReflectedIndexedDataset) else path


def _documents(dataset: Any, place: int) -> Iterator[tuple[int, int, int]]:
    """Sequence, begin and end of each document in the sample at a place of the sample index."""
    (first, offset), (last, end) = dataset.sample_index[place], dataset.sample_index[place + 1]
    for position in range(int(first), int(last) + 1):
        sequence = int(dataset.document_index[position])
        begin = int(offset) if position == first else 0
        # The last token of a sample is a label only, and the first of the next.
        until = int(end) + 1 if position == last else int(dataset.dataset.sequence_lengths[sequence])
        yield sequence, begin, until


def _places(dataset: Any, sequence: int) -> Iterator[tuple[int, int, int]]:
    """Each sample of a shard's dataset that reads a document, and which of its tokens."""
    for position in np.flatnonzero(np.asarray(dataset.document_index) == sequence):
        starts = dataset.sample_index[:, 0]
        first = max(int(np.searchsorted(starts, position, "left")) - 1, 0)
        for place in range(first, min(int(np.searchsorted(starts, position, "right")), len(starts) - 1)):
            place_first = int(dataset.sample_index[place][0])
            for number, (found, begin, end) in enumerate(_documents(dataset, place), place_first):
                if number == position and end > begin:
                    yield place, begin, end
                    assert found == sequence


def _numbers(whole: Any, part: int, place: int) -> list[int]:
    """The numbers, in the run's order, of the sample at a place of the sample index of a shard's dataset."""
    dataset = getattr(whole, "datasets", [whole])[part]
    shuffled = np.flatnonzero(np.asarray(dataset.shuffle_index) == place)
    if not hasattr(whole, "datasets"):
        return [int(number) for number in shuffled]
    own = np.asarray(whole.dataset_index) == part
    return [int(i) for i in np.flatnonzero(own & np.isin(np.asarray(whole.dataset_sample_index), shuffled))]


def _part(dataset: Any, sequence: int, begin: int, end: int) -> Part:
    path = _path_of(dataset)
    sidecar = path if is_sidecar(path) else str(sidecar_path(path))
    if not (is_sidecar(path) or Path(sidecar).is_file()):
        return Part(path, sequence, begin, end, None, ())
    loaded = ReflectionSidecar.load(sidecar)
    if not is_sidecar(path) and not loaded.materialized:  # of a plain shard that is read without it
        return Part(path, sequence, begin, end, None, ())
    found = loaded.reflections(sequence, sequence + 1)
    inside = found.table.inside()[found.entries]
    begins, _, ends = found.spans(np.zeros(1, np.int64), np.array([len(inside)]))
    segments = (np.cumsum(~inside) - ~inside)[(begins < end) & (ends > begin)]  # of each piece
    lasts = np.flatnonzero(~inside)
    own = np.unique(segments[segments < len(lasts)])
    verdicts = tuple(str(found.table.entries[int(found.entries[k])].label.verdict) for k in lasts[own])
    return Part(path, sequence, begin, end, tuple(map(int, own)), verdicts)
