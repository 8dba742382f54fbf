"""Megatron's own loader compared with the same batches through DALI: how long a step waits."""

import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from megatron_srp.benchmarks.sections import Section

COMMAND = "srp bench run dataloader"


@dataclass(frozen=True, slots=True)
class Settings:
    """The measured workload: batches of `micro_batch_size` x `seq_length` tokens, each step computing for `step_ms`."""

    seq_length: int = 2048
    micro_batch_size: int = 4
    workers: int = 2
    step_ms: float = 20.0
    steps: int = 100
    repeats: int = 5


@dataclass(frozen=True, slots=True)
class Waiting:
    """Milliseconds per step in which nothing was computed: the median step of each repeat."""

    loader: str
    per_step_ms: list[float]

    def row(self) -> str:
        low, middle, high = min(self.per_step_ms), statistics.median(self.per_step_ms), max(self.per_step_ms)
        return f"| {self.loader} | {middle:.3f} | {low:.3f} to {high:.3f} |"


def write_random_shard(prefix: Path, num_tokens: int) -> None:
    """A plain shard of random ids in documents of about a thousand tokens."""
    import numpy as np

    from megatron_srp.data.shards.indexed_shard import token_dtype, write_index

    rng = np.random.default_rng(0)
    dtype = token_dtype(49_152)
    lengths = rng.integers(100, 2000, num_tokens // 1000).astype(np.int32)
    rng.integers(1, 49_152, int(lengths.sum())).astype(dtype).tofile(f"{prefix}.bin")
    with Path(f"{prefix}.idx").open("wb") as file:
        write_index(file, lengths, dtype)


def make_loader(prefix: Path, settings: Settings) -> Any:
    """Megatron's dataset on the shard, in the loader that its trainer would build."""
    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=settings.seq_length,
        blend=([str(prefix)], None),
        split="1,0,0",
        path_to_cache=str(prefix.parent / "cache"),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        tokenizer=SimpleNamespace(eod=0, pad=-1, vocab_size=49_152, unique_identifiers={"class": "none"}),
    )
    size = settings.micro_batch_size
    samples = settings.steps * size
    train, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()
    batches = [list(range(i, i + size)) for i in range(0, samples, size)]
    return torch.utils.data.DataLoader(
        train,
        batch_sampler=batches,
        num_workers=settings.workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=settings.workers > 0,
    )


def dali_distribution() -> str | None:
    """The installed distribution of DALI (one for each CUDA), or None."""
    return next((name for name in packages_distributions().get("nvidia", []) if "dali" in name), None)


def _on_gpu(batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    # As in the training step.
    for batch in batches:
        yield {key: tensor.cuda(non_blocking=True) for key, tensor in batch.items()}


def _wait(batches: Iterable[dict[str, Any]], settings: Settings) -> float:
    """Median milliseconds from the end of a step's computing to the beginning of the next one's."""
    import torch

    waits = []
    iterator = iter(batches)
    next(iterator)  # starts the workers and the pipeline
    for _ in range(settings.steps - 1):
        time.sleep(settings.step_ms / 1000)  # computing, which on a GPU leaves the CPU free too
        started = time.perf_counter()
        next(iterator)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        waits.append(1000 * (time.perf_counter() - started))
    for _ in iterator:
        pass
    return statistics.median(waits)


def compare(settings: Settings, prefix: Path | None = None) -> list[Waiting]:
    """Measure both loaders (where DALI is installed) in turn, in a random order in each repeat."""
    import torch

    from megatron_srp.training.datasets.dali import DaliLoader

    device = torch.cuda.current_device() if torch.cuda.is_available() else None
    with tempfile.TemporaryDirectory() as folder:
        if prefix is None:
            prefix = Path(folder) / "shard"
            write_random_shard(prefix, settings.steps * settings.micro_batch_size * settings.seq_length)
        loader = make_loader(prefix, settings)
        loaders: dict[str, Any] = {
            "Megatron's": loader if device is None else _Reiterable(loader),
        }
        if dali_distribution():
            loaders["DALI"] = DaliLoader(loader, device)
        waits: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(settings.repeats):
            for name in random.sample(list(loaders), len(loaders)):
                waits[name].append(_wait(loaders[name], settings))
    return [Waiting(name, found) for name, found in waits.items()]


class _Reiterable:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return _on_gpu(self._loader)


def table(settings: Settings, results: list[Waiting]) -> str:
    """The results as Markdown."""
    import torch

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: batches stay on the CPU"
    rows = "\n".join(result.row() for result in results)
    return f"""Waiting for a batch of {settings.micro_batch_size} x {settings.seq_length} tokens between steps of \
{settings.step_ms:g} ms, {settings.workers} worker processes; {where}.

| loader | ms per step | lowest to highest of {settings.repeats} runs |
|---|---|---|
{rows}
"""


def run(quick: bool) -> Section:
    """The section `dataloader` of BENCHMARKS.md."""
    settings = Settings(steps=20, repeats=2) if quick else Settings()
    dali = dali_distribution()
    note = (
        "DALI's advantage is the copy to the GPU, made before the step needs it. Where no GPU is visible this "
        "shows its overhead alone."
        if dali
        else "NVIDIA DALI is not installed there, so its row is missing."
    )
    return Section(
        name="dataloader",
        title="Data loaders",
        command=COMMAND,
        packages=("megatron-core", "torch", *([dali] if dali else [])),
        body=f"{table(settings, compare(settings))}\n{note}",
    )
