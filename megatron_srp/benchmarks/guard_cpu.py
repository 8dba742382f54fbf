"""The CPU side of a chat guard: texts to prompts of token ids, and answers back to judgements.

A GPU judges one to three thousand 100-word segments a second, and the CPU must never keep it waiting. Texts
are made up, of words with the frequencies of natural language (Zipf), new ones in every run: an encoder that
remembers words it has seen must meet new ones here as it would in a corpus.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from megatron_srp.annotation import chat_guard
from megatron_srp.annotation.engines import Engine, Prompts
from megatron_srp.annotation.guard_spec import GuardSpec
from megatron_srp.annotation.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.prompts import PromptBuilder
from megatron_srp.benchmarks.sections import Section

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
    """Says Safe at once, so that only the work around the model is measured."""

    max_length = 32_768

    def next_token_logprobs(self, prompts: Prompts, candidates: Sequence[int]) -> np.ndarray:
        row = np.full(len(candidates), np.log(0.001), np.float32)
        row[0] = np.log(0.99)
        return np.tile(row, (len(prompts), 1))

    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: Sequence[int]) -> list[np.ndarray]:
        raise NotImplementedError("a guard that calls everything Safe asks for no text")


def make_words(rng: np.random.Generator, n: int) -> np.ndarray:
    """n made-up words, the common ones short."""
    syllables = np.array([a + v + b for a in "bcdfghlmnprst" for v in "aeiou" for b in ("", "n", "r", "st")])
    lengths = 1 + np.minimum(rng.poisson(np.log10(np.arange(n) + 1) / 2), 4)
    return np.array(["".join(rng.choice(syllables, k)) for k in lengths])


def make_segments(rng: np.random.Generator, words: np.ndarray, n: int) -> pa.LargeStringArray:
    """n segments of `WORDS` words in sentences."""
    weights = 1 / (np.arange(len(words)) + 2.7)
    drawn = rng.choice(words, (n, WORDS), p=weights / weights.sum())
    drawn[:, ::12] = np.char.capitalize(drawn[:, ::12])
    drawn[:, 11::12] = np.char.add(drawn[:, 11::12], ".")
    drawn[:, 5::24] = np.char.add(drawn[:, 5::24], ",")
    return pa.array([" ".join(row) + ".\n" for row in drawn.tolist()], pa.large_string())


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
        begin = time.process_time()  # of all threads: what a core gives, however many there are
        for at in range(0, len(segments), 2_048):
            work(segments.slice(at, 2_048))
        rates.append(len(segments) / (time.process_time() - begin))
    return rates[1:]


def run(quick: bool = False) -> Section:
    """Measure prompts alone, the whole guard around a model that takes no time, and the plain way."""
    rng = np.random.default_rng(0)
    words = make_words(rng, 5_000 if quick else 200_000)
    size, times = (200, 1) if quick else (10_000, 5)
    with TemporaryDirectory() as folder:
        training = make_segments(rng, words, 200 if quick else 5_000).to_pylist()
        make_tokenizer(Path(folder), training, 2_000 if quick else 32_000)
        spec = GuardSpec.load(Path(chat_guard.__file__).with_name("qwen3guard.yaml"))
        # A tokenizer for each row: it remembers the words of the row before otherwise.
        builder, other = (PromptBuilder(spec, GuardTokenizer(folder)) for _ in range(2))
        guard = chat_guard.ChatGuard(other, NoModel())
        tokenizer = builder.tokenizer

        def fresh(n: int) -> list[pa.LargeStringArray]:
            return [make_segments(rng, words, n) for _ in range(times + 1)]

        def plain(segments: pa.LargeStringArray) -> None:
            for text in segments.to_pylist():
                turns = [{"role": "user", "content": text}]
                tokenizer.encode_template(tokenizer.render(turns, None, False) + spec.answer)

        rows = {
            "prompts: tokenise and assemble": measure(builder.build, fresh(size)),
            "the whole guard, its model taking no time": measure(guard.judge_array, fresh(size)),
            "the plain way: apply_chat_template and tokenizer, a text at a time": measure(plain, fresh(size // 20)),
        }
        encoder = tokenizer.encoder_name
        per_prompt = len(builder.build(fresh(1)[0])[0])
    return Section(
        "guard-cpu",
        "CPU side of a chat guard",
        "tools/bench.py guard-cpu",
        ("gigatoken", "tokenizers", "transformers", "pyarrow", "numpy"),
        _table(rows, encoder, per_prompt, size, times),
    )


def _table(rows: dict[str, list[float]], encoder: str, per_prompt: int, size: int, times: int) -> str:
    lines = [
        f"Segments of {WORDS} words per CPU second (one core), median of {times} runs of {size:,} new segments "
        f"each (the plain way: of {size // 20:,}), after one to warm up; about {per_prompt} tokens a prompt, "
        f"tokenizer run by {encoder}.",
        "",
        "| | segments/s/core | lowest | highest |",
        "|---|---|---|---|",
    ]
    lines += [f"| {n} | {statistics.median(r):,.0f} | {min(r):,.0f} | {max(r):,.0f} |" for n, r in rows.items()]
    median = statistics.median(next(iter(rows.values())))
    verdict = "met" if median >= GOAL else "missed"
    return "\n".join([*lines, "", f"Goal: {GOAL:,} segments/s/core for tokenising and assembling: **{verdict}**."])
