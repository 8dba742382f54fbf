"""Cascades: what a cheap front settles for a real small classifier, and what it costs.

The back is an encoder with a head trained on half of the prompts and of the prose. It judges the prompts and a sample
of the prose, and the fronts learn from its verdicts. Every figure of a front is out of fold (`cascade_fronts`).
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from megatron_srp.annotation import Guard, load_guard
from megatron_srp.annotation.cascade.bound import Choice
from megatron_srp.annotation.cascade.spec import CascadeSpec, write_calibration
from megatron_srp.annotation.engines.hf_encoder import TextEncoder
from megatron_srp.annotation.fronts.card import settled_at
from megatron_srp.annotation.fronts.front_file import Front
from megatron_srp.annotation.fronts.logistic import fit_logistic
from megatron_srp.annotation.guard_evaluation.datasets import load_dataset
from megatron_srp.annotation.guards.embedding import EmbeddingGuard
from megatron_srp.annotation.guards.small import SmallGuard
from megatron_srp.benchmarks import Options
from megatron_srp.benchmarks.cascade_fronts import FOLDS, fit_small, fit_static, out_of_fold, pick
from megatron_srp.benchmarks.sections import Section
from megatron_srp.benchmarks.timing import compare, spread
from megatron_srp.corpus.batch import TextBatch, segment_batch, text_hashes
from megatron_srp.corpus.readers import read_batches
from megatron_srp.errors import UsageError

GOAL_SETTLED, GOAL_CPU = 0.85, 1.3
_WORDS = 100
_DOCUMENTS, _QUICK_DOCUMENTS = 120, 40
_SRP = [sys.executable, "-m", "megatron_srp"]


def run(options: Options) -> Section:
    """Measure recall and speed of the front, and a whole preprocessing run."""
    if not options.corpus or not options.prompts or options.encoder is None:
        raise UsageError("the section cascade needs --corpus, --prompts and --encoder")
    data = _Texts(options, _QUICK_DOCUMENTS if options.quick else _DOCUMENTS)
    encoder = TextEncoder(options.encoder)
    back = _train_back(data, encoder)
    harmful, back_rate = _judge(back, data.texts)
    prose_rate = _rate(back, data.prose_texts(200))
    fits = {"small": fit_small(data.texts, harmful), "static": fit_static(data.texts, harmful, options.encoder)}
    harms = {name: out_of_fold(fit, data.texts, data.numbers) for name, fit in fits.items() if fit}
    guards = {name: fit(np.ones(len(harmful), bool), data.numbers % 10 == 0) for name, fit in fits.items() if fit}
    parts = [_settled(data, harms, harmful), _costs(data, guards, harms, harmful, prose_rate), _whole_runs(options)]
    facts = (
        f"Back: {options.encoder.name}, mean-pooled, with a logistic head trained on half of {data.prompts:,} "
        f"public prompts and of the prose ({back_rate:,.0f} texts a CPU second here). It judged all prompts and "
        f"{data.segments:,} segments of at most {_WORDS} words of {data.documents:,} documents of prose, and called "
        f"{int(harmful.sum()):,} harmful, {int(harmful[data.is_prose].sum()):,} of them prose. Fronts, trained on "
        f"these verdicts, {FOLDS} folds of whole documents: `small`, and `static`, a linear head on the mean of the "
        "encoder's word vectors (model2vec). The third kind, an encoder with a head, is the back here. Intervals are "
        "Wilson's, 95%."
    )
    names = " ".join(name.partition(":")[2].rpartition("/")[2] for name in options.prompts)
    much = "--quick" if options.quick else f"--size {options.size // 1_000_000}"
    command = f"srp bench run cascade {much} --corpus PROSE... --prompts {names} --encoder {options.encoder.name}"
    packages = ("torch", "transformers", "gigatoken", "numpy", "pyarrow")
    return Section("cascade", "Cascades of guards", command, packages, "\n\n".join([facts, *parts]))


class _Texts:
    """Prompts, then segments of prose.

    Attributes:
        labels: bool[N], harmful by the prompts' sets; prose counts as harmless.
        is_prose: bool[N]. numbers: uint64[N] of each text's document, which decide its fold and half.
    """

    def __init__(self, options: Options, documents: int) -> None:
        examples = [example for name in options.prompts for example in load_dataset(name)]
        batch = next(iter(read_batches(options.corpus, ["text"]))).texts["text"]
        self.documents = min(documents, len(batch))
        batch = TextBatch.from_texts([batch[i] for i in range(self.documents)])
        cut = segment_batch(batch, _WORDS)
        texts = [example.text for example in examples]
        self.prompts, self.segments = len(texts), len(cut)
        self.texts = pa.array([*texts, *cut.texts(batch).to_pylist()], pa.large_string())
        prose = np.zeros(len(cut), bool)
        self.labels = np.concatenate([[example.harmful for example in examples], prose])
        self.is_prose = np.arange(len(self.texts)) >= len(texts)
        of_documents = np.repeat(text_hashes(batch), np.diff(cut.offsets))
        self.numbers = np.concatenate([text_hashes(TextBatch.from_texts(texts)), of_documents]) >> np.uint64(8)

    def prose_texts(self, count: int) -> pa.LargeStringArray:
        return self.texts.slice(self.prompts, count)


def _train_back(data: _Texts, encoder: TextEncoder) -> EmbeddingGuard:
    half = data.numbers % 2 == 0
    rows = half & (~data.is_prose | (data.numbers % 8 == 0))  # prose far outnumbers the prompts
    weights, bias = fit_logistic(encoder.embed(pick(data.texts, rows).to_pylist()), data.labels[rows], ridge=0.1)
    described = {"kind": "encoder", "model": "", "revision": encoder.revision}
    return EmbeddingGuard(Front(weights.astype(np.float32), bias, 1.0, embedder=described), encoder)


def _judge(guard: EmbeddingGuard, texts: pa.LargeStringArray) -> tuple[np.ndarray, float]:
    """bool[N], harmful to the guard, and texts per CPU second."""
    begin = time.process_time()
    harmful = guard.harm_probabilities_array(texts) >= guard.threshold
    return harmful, len(texts) / (time.process_time() - begin)


def _rate(guard: Guard, texts: pa.LargeStringArray) -> float:
    """Segments per CPU second, after a run to warm up."""
    guard.classify_array(texts.slice(0, 16))
    begin = time.process_time()
    guard.classify_array(texts)
    return len(texts) / max(time.process_time() - begin, 1e-9)


def _settled(data: _Texts, harms: dict[str, np.ndarray], harmful: np.ndarray) -> str:
    names = " | ".join(f"prose settled by `{name}`" for name in harms)
    lines = [f"| recall of what the back calls harmful | {names} | goal |", "|---" * (len(harms) + 2) + "|"]
    for recall in (0.95, 0.99, 0.999):
        found = [_share(data, one, harmful, recall) for one in harms.values()]
        best = max((one[0] for one in found if one), default=None)
        goal = "" if recall != 0.99 or best is None else f"{GOAL_SETTLED:.0%}: {_met(best >= GOAL_SETTLED)}"
        shown = ["{:.1%} ({:.1%} to {:.1%})".format(*one) if one else "too few harmful to tell" for one in found]
        lines.append(f"| {recall:.1%} | {' | '.join(shown)} | {goal} |")
    return "\n".join(lines)


def _share(data: _Texts, harms: np.ndarray, harmful: np.ndarray, recall: float) -> tuple[float, float, float] | None:
    """Share of the prose below the threshold of that recall over all texts, with its interval."""
    from megatron_srp.statistics.wilson import wilson

    threshold = settled_at(harms, harmful, recall)["threshold"]
    if threshold is None:
        return None
    share = float((harms[data.is_prose] < threshold).mean())
    return (share, *wilson(share, data.segments))


def _met(met: bool) -> str:
    return "met" if met else "missed"


def _costs(
    data: _Texts,
    guards: Mapping[str, Guard],
    harms: dict[str, np.ndarray],
    harmful: np.ndarray,
    back_rate: float,
) -> str:
    prose = pick(data.texts, data.is_prose)
    rates = {f"`{name}`": _rate(guard, prose) for name, guard in guards.items()}
    rates |= {"`heuristic`": _rate(load_guard("heuristic"), prose), "the back, an encoder": back_rate}
    for name in guards:
        if found := _share(data, harms[name], harmful, 0.99):
            settled, row = found[0], f"`{name}` before the back at 99% recall ({found[0]:.1%} settled), computed"
            rates[row] = 1 / (1 / rates[f"`{name}`"] + (1 - settled) / back_rate)
    lines = ["| guard | segments of prose a CPU second | to the back |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {rate:,.0f} | {rate / back_rate:,.1f} |" for name, rate in rates.items())])


def _whole_runs(options: Options) -> str:
    """`srp preprocess` with each guard, and plain gigatoken."""
    runs, size = (1, 0) if options.quick else (3, options.size)
    cores = str(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="srp-bench-") as made:
        folder = Path(made)
        corpus = _write_corpus(options.corpus, folder, size)
        model = _tokenizer(options.tokenizers, folder)
        ours = [*_SRP, "preprocess", "--input", str(corpus), "--tokenizer-type", "HuggingFaceTokenizer"]
        ours += ["--tokenizer-model", str(model), "--append-eod", "--workers", cores, "--overwrite"]
        ours += ["--output-prefix", str(folder / "out"), "--guard"]
        plain = [sys.executable, "-m", "megatron_srp.benchmarks.plain_paths", "gigatoken", "HuggingFaceTokenizer"]
        guards = {"none": "none", "small": "small", "cascade": _write_cascade(folder), "heuristic": "heuristic"}
        commands = {"gigatoken": [*plain, str(model), str(corpus), str(folder / "plain"), cores]}
        timings = compare(commands | {name: [*ours, guard] for name, guard in guards.items()}, runs)
        megabytes = corpus.stat().st_size / 1e6
    lines = [
        f"Whole runs over {megabytes:,.0f} MB of JSON lines with tokenizer {model.name}, {runs} in turn, start-up "
        "included; median (least to most). The cascade's front is `small`, its back `heuristic`, and 1 segment in 200 "
        "is audited.",
        "",
        "| `srp preprocess --guard` | CPU s | CPU to plain gigatoken | goal |",
        "|---|---|---|---|",
    ]
    for name, timing in timings.items():
        ratios = timing.ratios(timings["gigatoken"])
        goal = f"{GOAL_CPU}: {_met(float(np.median(ratios)) <= GOAL_CPU)}" if name == "small" else ""
        shown = "plain gigatoken" if name == "gigatoken" else f"`{name}`"
        lines.append(f"| {shown} | {spread(timing.cpu_s, 1)} | {spread(ratios)} | {goal} |")
    ratio = spread(timings["cascade"].ratios(timings["heuristic"]))
    return "\n".join([*lines, "", f"`cascade` takes {ratio} times the processor time of `heuristic`."])


def _write_corpus(files: Sequence[Path], folder: Path, size: int) -> Path:
    """The corpus as JSON lines, repeated to about `size` bytes, once at least."""
    batches = [batch.texts["text"] for batch in read_batches(list(files), ["text"])]
    block = "".join(json.dumps({"text": batch[i]}) + "\n" for batch in batches for i in range(len(batch)))
    path = folder / "corpus.jsonl"
    with path.open("w") as file:
        for _ in range(max(1, round(size / len(block)))):
            file.write(block)
    return path


def _tokenizer(given: Sequence[Path], folder: Path) -> Path:
    if given:
        return given[0]
    from megatron_srp.toy_corpus.corpus import train_tokenizer

    train_tokenizer(folder / "tokenizer")
    return folder / "tokenizer"


def _write_cascade(folder: Path) -> str:
    """A cascade whose front settles what it calls Safe as a guard."""
    path = folder / "cascade.yaml"
    path.write_text("front: {guard: small}\nback: {guard: heuristic}\n")
    spec = CascadeSpec.load(path)
    front, back = spec.load_guards(load_guard)
    assert isinstance(front, SmallGuard)
    write_calibration(spec, Choice(front.threshold, 0, 0, 0, 0, 1.0), front, back, _WORDS)
    return f"cascade:{path}"
