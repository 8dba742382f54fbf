"""Random sample access through the view compared with the plain shard, by Megatron's own GPTDataset."""

import statistics
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from megatron_srp.benchmarks import Options
from megatron_srp.benchmarks.sections import Section
from megatron_srp.benchmarks.timing import spread
from megatron_srp.data.reflection_table import Entry, ReflectionTable
from megatron_srp.data.shards.indexed_shard import bin_path, idx_path, write_index
from megatron_srp.data.shards.sidecar import ReflectionSidecar, describe_shard, sidecar_path
from megatron_srp.schema import SAFE, SafetyLabel, Verdict

GOAL = 0.8
_EOD = 50256
_SEGMENT_TOKENS = 130  # of 100 English words
_SEQUENCE_LENGTH = 2048  # the paper's
_RUNS = 9


def write_corpus(prefix: Path, num_documents: int) -> None:
    """A shard of random GPT-2 ids, and a sidecar with a reflection every 130 tokens, 4% of them Unsafe.

    The documents are as long as those of web text: a median of 600 tokens, a mean of 1,000.
    """
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(600), 1.0, num_documents), 20, 1e6).astype(np.int32)
    tokens = rng.integers(0, _EOD, int(lengths.sum()), dtype=np.uint16)
    tokens[np.cumsum(lengths) - 1] = _EOD
    tokens.tofile(bin_path(prefix))
    with idx_path(prefix).open("wb") as file:
        write_index(file, lengths, tokens.dtype)
    counts = -(-(lengths - 1) // _SEGMENT_TOKENS).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    nth = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts) + 1
    cuts = np.minimum(nth * _SEGMENT_TOKENS, np.repeat(lengths - 1, counts)).astype(np.int32)
    table = ReflectionTable(
        [
            Entry(SAFE, False, tuple(range(8))),
            Entry(SafetyLabel(Verdict.UNSAFE, ("Violent",)), True, (*range(11), _EOD)),
        ]
    )
    entries = (rng.random(len(cuts)) < 0.04).astype(np.uint16)
    tokenizer = {"model": "gpt2", "vocab_size": _EOD + 1, "eos_id": _EOD, "fingerprint": ""}
    info = {"shard": describe_shard(prefix), "tokenizer": tokenizer, "training_tokenizer": tokenizer}
    ReflectionSidecar(offsets, cuts, entries, table, False, info).save(sidecar_path(prefix))


def open_dataset(prefix: Path, num_samples: int, reflected: bool) -> Any:
    """The training dataset of the shard, with or without its sidecar."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    from megatron_srp.training.host.register import register

    tokenizer = SimpleNamespace(eod=_EOD, eos=_EOD, pad=-1, vocab_size=_EOD + 1, unique_identifiers={})
    options: dict[str, Any] = {
        "random_seed": 1,
        "sequence_length": _SEQUENCE_LENGTH,
        "blend": ([str(prefix)], None),
        "split": "1,0,0",
        "tokenizer": tokenizer,
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": False,
        "path_to_cache": str(prefix.parent / "cache"),
    }
    register()
    if reflected:
        options["blend"] = ([str(sidecar_path(prefix))], None)
    config = GPTDatasetConfig(**options)
    return BlendedMegatronDatasetBuilder(GPTDataset, [num_samples, 0, 0], lambda: True, config).build()[0]


def samples_per_cpu_second(dataset: Any, num_samples: int) -> float:
    """Samples per CPU second of a pass over the dataset's first samples, which Megatron has shuffled."""
    started = time.process_time()
    for i in range(num_samples):
        dataset[i]
    return num_samples / (time.process_time() - started)


def run(options: Options) -> Section:
    """Both datasets in turn, several times; the ratio of their speeds."""
    import torch

    torch.set_num_threads(1)
    num_documents, num_samples, runs = (2_000, 500, 2) if options.quick else (100_000, 20_000, _RUNS)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prefix = Path(folder) / "corpus"
        write_corpus(prefix, num_documents)
        share = sidecar_path(prefix).stat().st_size / bin_path(prefix).stat().st_size
        datasets = [open_dataset(prefix, num_samples, reflected) for reflected in (False, True)]
        for dataset in datasets:
            samples_per_cpu_second(dataset, num_samples)  # into the page cache
        speeds = [[samples_per_cpu_second(dataset, num_samples) for dataset in datasets] for _ in range(runs)]
    ratios = [view / plain for plain, view in speeds]
    plain, view = (statistics.median(column) for column in zip(*speeds, strict=True))
    ratio = statistics.median(ratios)
    verdict = "met" if ratio >= GOAL else "missed"
    body = f"""
Samples of {_SEQUENCE_LENGTH} tokens from {num_documents:,} documents, `GPTDataset.__getitem__` in random order, one
process, page cache warm; the two in turn, {runs} times, medians.

| dataset | samples per CPU second |
|---|---|
| plain shard | {plain:,.0f} |
| the same with a sidecar (the view) | {view:,.0f} |

Ratio {spread(ratios)}; goal at least {GOAL}: {verdict}.

The sidecar of 100-word segments is {share:.1%} of its shard's size.
"""
    packages = ("megatron-core", "torch", "numpy")
    return Section("view", "Reading samples through the view", "srp bench run view", packages, body)
