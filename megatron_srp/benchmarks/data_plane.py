"""The data job compared with the paths without reflections, on the same file and the same cores."""

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from megatron_srp.benchmarks import Options
from megatron_srp.benchmarks.real.data import MEASURED, real_folder, real_tokenizers
from megatron_srp.benchmarks.sections import Section
from megatron_srp.benchmarks.timing import Timing, compare, seconds_to_first_byte, spread

_SRP = [sys.executable, "-m", "megatron_srp"]
_QUICK_BYTES = 10_000_000
_SLICE = 50  # the reference tokenizer gets this fraction: the whole would take it an hour
_START_UP_S = 2.0
_GOALS = {"ours-store": 1.25, "ours-heuristic": 2.0}
_TIMES_WHOLE_FILE = 3.0  # (d) is to be faster than (f) by
_NAMES = {
    "hf-pool": "(a) reference tokenizer, pool of processes",
    "gigatoken": "(b) gigatoken, plain batches",
    "ours-none": "(c) ours, `--guard none`",
    "ours-store": "(d) ours, verdicts from the store",
    "ours-heuristic": "(e) ours, heuristic guard",
    "whole-file": "(f) gigatoken, the whole file in memory",
}


def run(options: Options) -> Section:
    """Measure every tokenizer; the goals are for the ratios to (b)."""
    runs, size = (1, _QUICK_BYTES) if options.quick else (options.runs, options.size)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="srp-bench-") as folder:
        files = _Files(Path(folder), options, size)
        tables = []
        for model in files.tokenizers:
            commands = _commands(files, model, cores)
            tables += [_table(model, compare(commands, runs), files), _start_up(files, commands["ours-store"], runs)]
    described = (
        f"{files.size / 1e6:,.0f} MB of JSON lines with {files.text_size / 1e6:,.0f} MB of text, {cores} threads, "
        f"segments of 100 words, {runs} runs in turn; median (least to most). CPU is user and system time of the whole "
        f"process, start-up included; ratios are of CPU time to (b) in the same round. (a) gets every {_SLICE}th "
        "part of the file, and its figures are per MB. (f) is the way of Megatron's own fast tool, "
        "preprocess_data_fast.py: its imports, then one call of gigatoken for the whole file, then one write."
        f"{files.missing}"
    )
    return Section(
        "data",
        "Data plane",
        "srp bench run data",
        ("megatron-srp", "gigatoken", "tokenizers", "sentencepiece", "numpy", "pyarrow"),
        "\n\n".join([described, *tables]),
    )


class _Files:
    """The corpus as one JSON lines file, a slice of it, and verdicts on it."""

    def __init__(self, folder: Path, options: Options, size: int) -> None:
        self.folder, self.tokenizers = folder, options.tokenizers
        texts = _texts(options.corpus)
        block = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)).encode()
        times = max(1, round(size / len(block)))
        self.text_size = times * sum(len(text.encode()) for text in texts)
        self.corpus, self.slice, self.store = folder / "corpus.jsonl", folder / "slice.jsonl", folder / "verdicts"
        with self.corpus.open("wb") as file:
            for _ in range(times):
                file.write(block)
        self.size = self.corpus.stat().st_size
        lines = block.splitlines(keepends=True)
        wanted = self.size // _SLICE
        self.slice.write_bytes(b"".join(lines * max(1, wanted // len(block))) if wanted > len(block) else block)
        self.missing = ""  # a sentence on real tokenizers that are not here
        if not self.tokenizers:
            self.tokenizers = real_tokenizers(folder / "smollm2")
            if len(self.tokenizers) <= len(MEASURED):
                self.missing = f" Not all real tokenizers are in {real_folder()}; tests/real/fetch.sh brings them."
        if not self.tokenizers:
            from megatron_srp.toy_corpus.corpus import train_tokenizer

            train_tokenizer(folder / "tokenizer")
            self.tokenizers = [folder / "tokenizer"]
        annotate = [*_SRP, "annotate", "--input", str(self.corpus), "--guard", "heuristic"]
        compare({"annotate": [*annotate, "--store", str(self.store)]}, 1)


def _texts(corpus: list[Path]) -> list[str]:
    if not corpus:
        from megatron_srp.toy_corpus.corpus import texts

        return list(texts(5000))
    from megatron_srp.corpus.readers import read_batches

    batches = (batch.texts["text"] for batch in read_batches(corpus, ["text"]))
    return [batch[i] for batch in batches for i in range(len(batch))]


def _commands(files: _Files, model: Path, cores: int) -> dict[str, list[str]]:
    kind = "SentencePieceTokenizer" if model.suffix == ".model" else "HuggingFaceTokenizer"
    out = str(files.folder / "out")
    plain = [sys.executable, "-m", "megatron_srp.benchmarks.plain_paths"]
    ours = [*_SRP, "preprocess", "--input", str(files.corpus)]
    ours += ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--workers", str(cores)]
    ours += ["--output-prefix", out, "--overwrite"]
    return {
        "hf-pool": [*plain, "hf-pool", kind, str(model), str(files.slice), out, str(cores)],
        "gigatoken": [*plain, "gigatoken", kind, str(model), str(files.corpus), out, str(cores)],
        "ours-none": [*ours, "--guard", "none"],
        "ours-store": [*ours, "--store", str(files.store)],
        "ours-heuristic": [*ours, "--guard", "heuristic"],
        "whole-file": [*plain, "whole-file", kind, str(model), str(files.corpus), out, str(cores)],
    }


def _start_up(files: _Files, command: list[str], runs: int) -> str:
    """From the command to the first token on disk."""
    seconds = []
    for _ in range(runs):
        shutil.rmtree(files.folder / "out.srp-work", ignore_errors=True)
        seconds.append(seconds_to_first_byte(command, files.folder, "out.srp-work/*.bin"))
    met = "met" if statistics.median(seconds) < _START_UP_S else "missed"
    return f"Start-up of (d) to the first byte written: {spread(seconds)} s; goal {_START_UP_S}: {met}."


def _table(model: Path, timings: dict[str, Timing], files: _Files) -> str:
    lines = [f"### Tokenizer {model.stem}", "", "| path | CPU s | wall s | MB/s | CPU to (b) | goal | peak MB |"]
    lines.append("|---|---|---|---|---|---|---|")
    base = timings["gigatoken"]
    slowest = files.slice.stat().st_size / 1e6 / statistics.median(timings["hf-pool"].wall_s)
    for name, timing in timings.items():
        size = (files.slice if name == "hf-pool" else files.corpus).stat().st_size / 1e6
        per_file = [own * files.size / 1e6 / size for own in timing.cpu_s]
        ratios = [own / other for own, other in zip(per_file, base.cpu_s, strict=True)]
        goal = _GOALS.get(name)
        verdict = "" if goal is None else f"{goal}: {'met' if statistics.median(ratios) <= goal else 'missed'}"
        speed = size / statistics.median(timing.wall_s)
        lines.append(
            f"| {_NAMES[name]} | {spread(timing.cpu_s, 1)} | {spread(timing.wall_s, 1)} | {speed:,.1f} | "
            f"{spread(ratios)} | {verdict} | {timing.memory / 1e6:,.0f} |"
        )
        if name == "ours-store":
            times = speed / slowest
            note = f"\n(d) is {times:.0f} times as fast as (a); goal 50: {'met' if times >= 50 else 'missed'}."
    return "\n".join([*lines, note, _to_whole_file(timings)])


def _to_whole_file(timings: dict[str, Timing]) -> str:
    pairs = zip(timings["whole-file"].wall_s, timings["ours-store"].wall_s, strict=True)
    times = [whole / own for whole, own in pairs]
    met = "met" if statistics.median(times) >= _TIMES_WHOLE_FILE else "missed"
    return f"In wall time (d) is {spread(times)} times as fast as (f); goal {_TIMES_WHOLE_FILE:g}: {met}."
