"""What a guard costs an answer: plain generation, the guard, and forced reflections at intervals.

The model is that of `--model`, or has random weights in the shape of the paper's smallest; on one CPU thread. It never
ends a text, and nothing stops it. On a GPU one token takes as long as several tens, so that a forced reflection costs
less.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from megatron_srp.benchmarks import Options
from megatron_srp.benchmarks.guard_cpu import make_tokenizer
from megatron_srp.benchmarks.made_up_text import make_segments, make_words
from megatron_srp.benchmarks.neighbour import gaps_of_a_stream
from megatron_srp.benchmarks.sections import Section
from megatron_srp.benchmarks.timing import spread
from megatron_srp.generation.engines.hf.generator import HFGenerator
from megatron_srp.generation.engines.request import Request
from megatron_srp.generation.guard.forced_reflection import reflection_tree
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from megatron_srp.training.flags.presets import find_preset

PROMPT = 32  # tokens
EVERY = (64, 16)
_FORM = ReflectionFormat()


def make_model(vocab_size: int, quick: bool) -> Any:
    """A Llama in the shape of the preset 135m, with random weights; `quick`, of two layers and few words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = find_preset("135m")
    config = LlamaConfig(
        vocab_size=vocab_size if quick else max(shape.vocab_size, vocab_size),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=2 if quick else shape.num_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def load_words(options: Options, folder: Path) -> TextTokenizer:
    """The given tokenizer, or one that has the words of reflections as a real one would."""
    if options.tokenizers:
        return load_tokenizer("HuggingFaceTokenizer", options.tokenizers[0])
    rng = np.random.default_rng(0)
    texts = make_segments(rng, make_words(rng, 2_000), 20 if options.quick else 200, 100).to_pylist()
    reflections = [f" {_FORM.render(SafetyLabel(verdict))}" for verdict in Verdict] * 200
    make_tokenizer(folder, [*texts, *reflections], 2_000)
    return load_tokenizer("HuggingFaceTokenizer", folder)


def load(options: Options, folder: Path) -> tuple[Any, TextTokenizer, str]:
    """The model to measure, its tokenizer, and what it is."""
    if options.model:
        from megatron_srp.annotation.engines.hf_loading import choose_dtype, load_model

        model = load_model(str(options.model), choose_dtype("float32")).eval()
        model.generation_config.eos_token_id = None
        return model, load_tokenizer("HuggingFaceTokenizer", options.model), f"`{options.model.name}`"
    words = load_words(options, folder)
    return make_model(words.vocab_size, options.quick), words, "a Llama of the preset 135m's shape with random weights"


class Bench:
    """One model, and the ways of generating with it."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._model, words, self.name = load(options, folder)
        # No token ends an answer: all have the same length.
        vocabulary = GuardVocabulary(words.token_text(), frozenset(), {}, _FORM)
        self.tree = reflection_tree(_FORM, words)
        self._generator = HFGenerator(self._model, vocabulary, self.tree)

    def prompts(self, batch: int) -> list[list[int]]:
        return np.random.default_rng(batch).integers(300, 1_000, (batch, PROMPT)).tolist()

    def plain(self, batch: int, tokens: int) -> None:
        """transformers' own `generate`."""
        import torch

        ids = torch.tensor(self.prompts(batch))
        with torch.inference_mode():
            found = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
        assert found.shape == (batch, PROMPT + tokens)

    def guarded(self, batch: int, tokens: int, every: int) -> int:
        """This project's; returns how many forced reflections were read."""
        policy = GuardPolicy("off", reflect_every=every)
        asked = [Request(prompt, (), policy, max_new_tokens=tokens) for prompt in self.prompts(batch)]
        found = self._generator.generate(asked)
        assert all(generation.num_tokens == tokens for generation in found)
        return sum(len(generation.forced) for generation in found)

    def gaps(self, long: int) -> tuple[float, float]:
        """Of a stream, while a prompt of that many tokens joins it."""
        (short,) = self.prompts(1)
        return gaps_of_a_stream(self._generator, short, np.random.default_rng(0).integers(300, 1_000, long).tolist())


def run(options: Options) -> Section:
    """All ways in turn, several times, for one answer at a time and for several; and a long prompt that joins one."""
    import torch

    torch.set_num_threads(1)
    tokens, rounds, batches, long = (16, 1, (1,), 256) if options.quick else (32, 3, (1, 8, 32), 4_000)
    with TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        rows = [row for batch in batches for row in _rows(bench, batch, tokens, rounds)]
        gaps = [bench.gaps(long) for _ in range(rounds)]
    body = f"""
Answers of {tokens} tokens to prompts of {PROMPT}; {bench.name}, float32, one CPU thread; {rounds} rounds of all ways in
turn, medians (least to most), in processor time. Plain is transformers' own `generate`.
A reflection forced every so many tokens reads {len(bench.tree.ids)} tokens in one pass; one on the prompt and
one before the end are added to those in between. On a GPU, where reading a few tokens takes as long as one, each
should cost about one token; not measured.

| answers at a time | generation | tokens/CPU-s | speed over plain | forced per answer | tokens read for them |
|---|---|---|---|---|---|
{chr(10).join(rows)}

A stream while a prompt of {long:,} tokens joins it, {rounds} times:

| median gap alone, CPU s | longest gap while the prompt joins, CPU s | longest over median |
|---|---|---|
{_gaps_row(gaps)}
"""
    command = "srp bench run generation" + (" --model DIR" if options.model else "")
    return Section("generation", "Guarded generation", command, ("torch", "transformers", "numpy"), body)


def _gaps_row(gaps: list[tuple[float, float]]) -> str:
    medians, longest = zip(*gaps, strict=True)
    ratios = [one / other for other, one in gaps]
    return f"| {spread(medians, 3)} | {spread(longest, 3)} | {spread(ratios, 1)} |"


def _rows(bench: Bench, batch: int, tokens: int, rounds: int) -> list[str]:
    forced: dict[str, int] = {}

    def guarded(name: str, every: int) -> Callable[[], None]:
        def work() -> None:
            forced[name] = bench.guarded(batch, tokens, every) // batch

        return work

    ways = {"plain": lambda: bench.plain(batch, tokens), "guard": guarded("guard", 0)}
    ways |= {f"forced every {every}": guarded(f"forced every {every}", every) for every in EVERY}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    bench.plain(batch, 2)  # to warm up
    for _ in range(rounds):
        for name, work in ways.items():
            began = time.process_time()
            work()
            seconds[name].append(time.process_time() - began)
    lines = []
    for name, found in seconds.items():
        ratios = [plain / own for own, plain in zip(found, seconds["plain"], strict=True)]
        read = forced.get(name, 0) * len(bench.tree.ids)
        speed = batch * tokens / statistics.median(found)
        lines.append(f"| {batch} | {name} | {speed:,.1f} | {spread(ratios)} | {forced.get(name, 0)} | {read} |")
    return lines
