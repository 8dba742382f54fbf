"""Benchmarks: what `make bench` measures, one module for each section of BENCHMARKS.md.

A new benchmark is a module with `run(options: Options) -> Section` and one line in `SECTIONS`.
"""

from dataclasses import dataclass, field
from pathlib import Path

SECTIONS = {
    "data": "megatron_srp.benchmarks.data_plane:run",
    "view": "megatron_srp.benchmarks.view:run",
    "guard-cpu": "megatron_srp.benchmarks.guard_cpu:run",
    "cascade": "megatron_srp.benchmarks.cascade:run",
    "dataloader": "megatron_srp.benchmarks.dataloader:run",
    "world": "megatron_srp.benchmarks.world:run",
    "generation": "megatron_srp.benchmarks.generation:run",
}


@dataclass(frozen=True, slots=True)
class Options:
    """A benchmark's options.

    Attributes:
        quick: a small input and one run, to test the benchmark itself.
        corpus: JSONL or Parquet files of real text; by default, made-up text.
        tokenizers: folders with tokenizer.json, or .model files; by default real ones, where tests/real/fetch.sh has
            brought them, else one is trained.
        size: bytes of the corpus of the sections `data` and `cascade`.
        runs: of each command of the section `data`.
        prompts: labelled data sets, FORMAT:PATH, for the section of cascades; it has no default.
        encoder: folder of an encoder, for the same.
        model: folder of a model for the section of generation; by default it has random weights.
    """

    quick: bool = False
    corpus: list[Path] = field(default_factory=list)
    tokenizers: list[Path] = field(default_factory=list)
    size: int = 1_000_000_000
    runs: int = 5
    prompts: list[str] = field(default_factory=list)
    encoder: Path | None = None
    model: Path | None = None
