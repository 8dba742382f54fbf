"""Two chat guards on the real vocabularies of their families: Qwen3Guard has Qwen3's, Llama Guard 3 has Llama 3's.

Their own chat templates are not among the real data, so stand-ins of the same shape are used, and the family's own.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srp.annotation import GUARDS, GuardOptions, load_guard
from megatron_srp.annotation.guards import chat_guard
from megatron_srp.annotation.guards.guard_spec import GuardSpec
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.prompts import PromptBuilder
from megatron_srp.cli.annotate import main as annotate
from megatron_srp.corpus.batch import segment_batch
from megatron_srp.corpus.readers import read_batches
from megatron_srp.schema import SAFE, Verdict
from tests.helpers.tiny_guard import ANSWERS, TEMPLATE, sample_text, true_verdict

pytestmark = pytest.mark.real

LLAMA_TEMPLATE = """\
<|begin_of_text|><|start_header_id|>user<|end_header_id|>

Task: say whether there is unsafe content in the last message.

<BEGIN CONVERSATION>

{% for message in messages %}{{ "Agent" if message.role == "assistant" else "User" }}: {{ message.content | trim }}

{% endfor %}<END CONVERSATION>

Write 'safe' or 'unsafe', and the categories on a second line.<|eot_id|><|start_header_id|>assistant<|end_header_id|>"""


@dataclass(frozen=True)
class Family:
    """A guard, the folder of its vocabulary, a stand-in for its template, what it answers, and the longest answer."""

    guard: str
    vocabulary: str
    template: str
    answers: dict[str, str]
    ends: str

    @property
    def spec(self) -> GuardSpec:
        return GuardSpec.load(Path(chat_guard.__file__).with_name(GUARDS[self.guard]))

    def tokenizer(self, real_data: Path) -> GuardTokenizer:
        return GuardTokenizer(real_data / "tokenizers" / self.vocabulary)


LLAMA_ANSWERS = {"Safe": "\n\nsafe", "Controversial": "\n\nunsafe\nS10", "Unsafe": "\n\nunsafe\nS1,S9"}
FAMILIES = {
    "qwen3guard": Family("qwen3guard", "qwen3", TEMPLATE, ANSWERS, "\nRefusal: Yes<|im_end|>"),
    "llama-guard": Family("llama-guard", "llama3_1", LLAMA_TEMPLATE, LLAMA_ANSWERS, "<|eot_id|>"),
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def tokenizer(family, real_data) -> GuardTokenizer:
    return family.tokenizer(real_data)


@pytest.fixture(scope="module")
def segments(real_corpus) -> pa.LargeStringArray:
    """10,000 segments, from all files of the corpus evenly."""
    batches = (batch.texts["text"] for batch in read_batches(real_corpus, ["text"]))
    found = pa.concat_arrays([segment_batch(batch, 100).texts(batch) for batch in batches])
    return found.take(np.linspace(0, len(found) - 1, 10_000).astype(np.int64))


@pytest.fixture(scope="module")
def random_guard(family, real_data, tmp_path_factory) -> Path:
    from tests.real.random_guard import make_random_guard

    rng = random.Random(0)
    folder, vocabulary = tmp_path_factory.mktemp("random-guard"), real_data / "tokenizers" / family.vocabulary
    texts = [sample_text(rng) for _ in range(200)]
    return make_random_guard(
        folder, vocabulary, family.template, lambda text: family.answers[true_verdict(text)], texts
    )


@pytest.mark.parametrize(
    ("own", "mode", "every"), [(False, "prompt", 1), (False, "response", 10), (True, "prompt", 10)]
)
def test_prompts_are_the_templates(family, tokenizer, segments, own, mode, every):
    segments = segments.take(np.arange(0, len(segments), every))
    plain, spec = tokenizer._tokenizer, family.spec
    before, plain.chat_template = plain.chat_template, plain.chat_template if own else family.template
    try:
        user = "Why?" if mode == "response" else None
        prompts = PromptBuilder(spec, tokenizer, mode, user).build(segments)
        turns = [spec.conversation(mode, user, text) for text in segments.to_pylist()]
        wanted = [text + spec.answer for text in plain.apply_chat_template(turns, tokenize=False)]
    finally:
        plain.chat_template = before
    markup = [token for token in plain.get_added_vocab() if token in "".join(segments.to_pylist())]
    assert not markup  # in a text they are text, and no longer what the template gives
    for prompt, ids in zip(prompts, plain(wanted, add_special_tokens=False).input_ids, strict=True):
        assert prompt.tolist() == ids


def test_verdicts_are_read_at_their_first_token(family, tokenizer):
    spec = family.spec
    plain = tokenizer._tokenizer
    plain.chat_template, before = family.template, plain.chat_template
    verdicts = PromptBuilder(spec, tokenizer).verdict_tokens
    plain.chat_template = before
    assert [at for read in verdicts.tree.reads for at, _ in read] == [-1] * len(spec.verdicts)  # one pass
    assert [plain.decode(lead) for lead in verdicts.leads] == [text + spec.category_lead for text in spec.verdicts]
    if family.guard == "qwen3guard":
        assert [plain.decode([token]) for read in verdicts.tree.reads for _, token in read] == [
            " Safe",
            " Cont",
            " Unsafe",
        ]


def test_the_longest_answer_fits(family, tokenizer):
    spec = family.spec
    names = dict.fromkeys(sorted(spec.categories, key=len, reverse=True))
    verdicts = [text for text, verdict in spec.verdicts.items() if verdict is not Verdict.SAFE]
    longest = [f"{spec.answer}{text}{spec.category_lead} {', '.join(names)}{family.ends}" for text in verdicts]
    assert max(len(tokenizer.encode_template(text)) for text in longest) <= spec.max_new_tokens


def test_a_verdict_by_one_pass_is_the_one_that_is_written(family, random_guard):
    rng = random.Random(1)
    texts = [sample_text(rng) for _ in range(24)]
    guard: Any = load_guard(family.guard, GuardOptions(str(random_guard), engine_options={"device": "cpu"}))
    judged, written = guard.results(texts), guard.writing().results(texts)
    assert not any(one.failure for one in judged + written)
    assert [one.label for one in judged] == [one.label for one in written]
    assert {one.label.verdict for one in judged} == {SAFE.verdict, *family.spec.verdicts.values()}


@pytest.mark.parametrize("family", ["qwen3guard"], indirect=True)
def test_both_ways_by_the_command(family, random_guard, write_jsonl, tmp_path):
    rng = random.Random(2)
    path = write_jsonl([sample_text(rng) for _ in range(6)])
    flags = ["--input", str(path), "--guard", family.guard, "--model", str(random_guard), "--engine", "hf"]
    stored = []
    for n, way in enumerate(([], ["--generate-all"])):
        assert annotate([*flags, *way, "--store", str(tmp_path / f"store{n}")]) == 0
        parts = sorted((tmp_path / f"store{n}").rglob("*.parquet"))
        stored.append([pq.read_table(part).drop_columns("scores").to_pylist() for part in parts])
    assert stored[0] == stored[1] and sum(map(len, stored[0])) >= 6
