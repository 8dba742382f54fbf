"""The prompts and verdicts of the described guards on real vocabularies: their own, or the nearest one at hand.

The guards' own chat templates are not among the real data; `guard_families.ROLES` stands in for them.
"""

import random
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest

from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.schema import Verdict
from tests.conftest import random_text
from tests.helpers.guard_families import ROLES, VOCABULARIES, make_builder, shown_prompt

pytestmark = pytest.mark.real

EDGES = ["", "x", " \n y \t", "1. Éa", "½", "日本", "'s it", "\u00a0z", "a\n\n", "{text}", "…"]


@cache
def load_tokenizer(folder: Path) -> GuardTokenizer:
    tokenizer = GuardTokenizer(folder)
    tokenizer._tokenizer.chat_template = ROLES
    return tokenizer


@pytest.fixture(params=VOCABULARIES, scope="module")
def builder(request, real_data):
    return make_builder(request.param, load_tokenizer(real_data / "tokenizers" / VOCABULARIES[request.param]))


def test_ids_are_those_of_the_whole_prompt(builder):
    rng = random.Random(5)
    texts = [random_text(rng, rng.randrange(1, 40)) for _ in range(30)] + EDGES
    plain = builder.tokenizer._tokenizer
    for ids, text in zip(builder.build(pa.array(texts, pa.large_string())), texts, strict=True):
        shown = shown_prompt(builder, text.strip() if builder.frame.strip_left else text)
        for verdict in builder.spec.verdicts:
            whole = plain(shown + verdict, add_special_tokens=False).input_ids
            assert ids.tolist() == whole[: len(ids)], text


def test_a_verdict_is_read_in_one_pass(builder):
    verdicts = builder.verdict_tokens
    assert [at for read in verdicts.tree.reads for at, _ in read] == [-1] * len(builder.spec.verdicts)


def test_the_longest_answer_fits(builder):
    spec = builder.spec
    listed = ", ".join(dict.fromkeys(sorted(spec.categories, key=len, reverse=True)))
    named = ", ".join(dict.fromkeys(spec.categories.values())) if '"' in spec.answer else listed
    verdicts = [text for text, verdict in spec.verdicts.items() if verdict is not Verdict.SAFE]
    longest = [f"{spec.answer}{text}{spec.category_lead} {named}" for text in verdicts]
    assert max(len(builder.tokenizer.encode_template(text)) for text in longest) <= spec.max_new_tokens


def test_reasoning_does_not_end_an_answer(real_data):
    tokenizer = load_tokenizer(real_data / "tokenizers" / "gptoss")
    ends = tokenizer._tokenizer.convert_ids_to_tokens(tokenizer.end_ids)
    assert "<|return|>" in ends and "<|end|>" not in ends
