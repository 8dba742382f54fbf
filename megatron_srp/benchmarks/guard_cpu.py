"""The CPU side of a chat guard: texts to prompts of token ids, and answers back to verdicts.

A GPU classifies one to three thousand 100-word segments a second, and the CPU must never keep it waiting. Without a
corpus, texts are made up of words with the frequencies of natural language (Zipf). They are new in every run,
since an encoder that caches words must see new ones here as it would in a corpus.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.engines import Engine, Prompts
from megatron_srp.annotation.guards import chat_guard
from megatron_srp.annotation.guards.guard_spec import GuardSpec
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.prompts import PromptBuilder
from megatron_srp.benchmarks import Options
from megatron_srp.benchmarks.made_up_text import make_segments, make_words
from megatron_srp.benchmarks.sections import Section
from megatron_srp.corpus.batch import segment_batch
from megatron_srp.corpus.readers import read_batches

GOAL = 50_000  # segments per second and core
WORDS = 100
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_POLICY = " ".join(f"Category {i} covers whatever a careful reader would call harm of kind {i}." for i in range(12))
_FORMAT = " ".join(f"Line {i} of the answer names one category of harm, or none." for i in range(6))
_TEMPLATE = (
    "<|im_start|>user\n"
    + _POLICY
    + "\n\nUSER: {{ messages[0].content }}\n\n"
    + _FORMAT
    + "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


class NoModel(Engine):
    """Returns Safe at once, so that only the work around the model is measured."""

    max_length = 32_768

    def next_token_logprobs(self, prompts: Prompts, candidates: Sequence[int]) -> np.ndarray:
        row = np.full(len(candidates), np.log(0.001), np.float32)
        row[0] = np.log(0.99)
        return np.tile(row, (len(prompts), 1))

    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: Sequence[int]) -> list[np.ndarray]:
        raise NotImplementedError("a guard that calls everything Safe asks for no text")


def make_tokenizer(folder: Path, texts: list[str], vocab_size: int) -> None:
    """A byte-level BPE with Qwen's rules, trained on `texts`, with a template of a guard's shape."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    answers = 50 * ["Safety: Safe", "Safety: Controversial", "Safety: Unsafe", _POLICY, _FORMAT]
    tokenizer.train_from_iterator([*texts, *answers], trainer)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": _TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def measure(work: Callable[[pa.LargeStringArray], object], runs: list[pa.LargeStringArray]) -> list[float]:
    """Segments per CPU second of each run but the first, which warms up."""
    rates = []
    for segments in runs:
        begin = time.process_time()  # of all threads: the rate per core, however many there are
        for at in range(0, len(segments), 2_048):
            work(segments.slice(at, 2_048))
        rates.append(len(segments) / (time.process_time() - begin))
    return rates[1:]


def make_runs(options: Options, size: int, times: int) -> list[pa.LargeStringArray]:
    """One more than `times` runs of at most `size` segments, no segment twice: from the given corpus,
    or made up."""
    if not options.corpus:
        rng = np.random.default_rng(0)
        words = make_words(rng, 5_000 if options.quick else 200_000)
        return [make_segments(rng, words, size, WORDS) for _ in range(times + 1)]
    batches = (batch.texts["text"] for batch in read_batches(options.corpus, ["text"]))
    segments = pa.concat_arrays([segment_batch(batch, WORDS).texts(batch) for batch in batches])
    size = min(size, len(segments) // (times + 1))
    return [segments.slice(run * size, size) for run in range(times + 1)]


def _has_chat_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").exists() or (config.exists() and "chat_template" in config.read_text())


def run(options: Options) -> Section:
    """Measure prompts alone, the whole guard around a model that takes no time, and the plain way."""
    size, times = (200, 1) if options.quick else (10_000, 5)
    runs = make_runs(options, size, times)
    spec = GuardSpec.load(Path(chat_guard.__file__).with_name("qwen3guard.yaml"))
    with TemporaryDirectory() as made:
        given = next(filter(_has_chat_template, options.tokenizers), None)
        folder = given or Path(made)
        if not given:
            make_tokenizer(folder, runs[0].to_pylist(), 2_000 if options.quick else 32_000)
        # A new tokenizer for each row, or it would have cached the words of the previous row.
        builder, other, plain = (PromptBuilder(spec, GuardTokenizer(folder)) for _ in range(3))
        guard = chat_guard.ChatGuard(other, NoModel())
        rows = {
            "prompts: tokenize and assemble": measure(builder.build, runs),
            "the whole guard, its model taking no time": measure(guard.results_array, runs),
            "the plain way: apply_chat_template and tokenizer, a text at a time": measure(
                lambda texts: one_by_one(plain, texts), [run.slice(0, len(run) // 20) for run in runs]
            ),
        }
        prompts = builder.build(runs[0])
        length = len(prompts.prefix) + np.diff(prompts.rests.offsets).mean()
        facts = (
            f"Segments of at most {WORDS} words, {'made up' if not options.corpus else 'of real text'}, per CPU "
            f"second (one core): median of {times} runs of {len(runs[0]):,} new segments each (the plain way: of "
            f"{len(runs[0]) // 20:,}), after one to warm up; {length:.0f} "
            f"tokens per prompt on average, tokenizer run by {builder.tokenizer.encoder_name}."
        )
    command = "srp bench run guard-cpu"
    packages = ("gigatoken", "tokenizers", "transformers", "pyarrow", "numpy")
    return Section("guard-cpu", "CPU side of a chat guard", command, packages, _table(rows, facts))


def one_by_one(builder: PromptBuilder, texts: pa.LargeStringArray) -> None:
    """What a user of transformers would write."""
    for text in texts.to_pylist():
        turns = [{"role": "user", "content": text}]
        builder.tokenizer.encode_template(builder.tokenizer.render(turns, None, False) + builder.spec.answer)


def _table(rows: dict[str, list[float]], facts: str) -> str:
    lines = [facts, "", "| | segments/s/core | lowest | highest |", "|---|---|---|---|"]
    lines += [f"| {n} | {statistics.median(r):,.0f} | {min(r):,.0f} | {max(r):,.0f} |" for n, r in rows.items()]
    median = statistics.median(next(iter(rows.values())))
    verdict = "met" if median >= GOAL else "missed"
    return "\n".join([*lines, "", f"Goal: {GOAL:,} segments/s/core for tokenizing and assembling: **{verdict}**."])
