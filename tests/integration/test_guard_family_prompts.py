"""Guards that are only a description: their prompts, whole and in every mode, and a verdict from each."""

import numpy as np
import pyarrow as pa
import pytest

from megatron_srp.annotation.engines import Engine
from megatron_srp.annotation.guards.chat_guard import ChatGuard
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.prompts import Frame, PromptBuilder
from megatron_srp.schema import SafetyLabel, Verdict
from tests.helpers.guard_families import (
    POLICY,
    ROLES,
    VOCABULARIES,
    golden_prompt,
    load_spec,
    make_builder,
    shown_prompt,
)
from tests.helpers.tiny_guard import make_tokenizer

CASES = [(guard, mode) for guard in VOCABULARIES for mode in load_spec(guard).modes]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> GuardTokenizer:
    folder = tmp_path_factory.mktemp("guard-tokenizer")
    make_tokenizer(folder)
    loaded = GuardTokenizer(folder)
    loaded._tokenizer.chat_template = ROLES
    return loaded


@pytest.mark.parametrize(("guard", "mode"), CASES)
def test_golden_prompts(tokenizer, guard, mode):
    builder = make_builder(guard, tokenizer, mode)
    assert shown_prompt(builder) == golden_prompt(guard, mode)
    built = builder.build(pa.array(["The river."], pa.large_string()))[0]
    asked = tokenizer._tokenizer.decode(builder.verdict_tokens.asked)
    assert tokenizer._tokenizer.decode(built).startswith(builder.frame.before + "The river.")
    assert tokenizer._tokenizer.decode(built).endswith(asked)


def test_the_response_stands_alone_without_a_user_turn(tokenizer):
    for guard, mode in CASES:
        spec = load_spec(guard)
        if mode == "response":
            frame = Frame.render(spec, tokenizer, mode, None, POLICY if spec.needs_policy else None)
            assert "Why?" not in frame.before
            assert "Human Question: " not in frame.before and "User: " not in frame.before


def test_templates_that_show_parts_only(tokenizer):
    before = tokenizer._tokenizer.chat_template
    tokenizer._tokenizer.chat_template = (
        "{% for message in messages %}{% for part in message.content %}"
        "{% if part.type == 'text' %}[{{ part.text }}]{% endif %}{% endfor %}{% endfor %}"
    )
    try:
        frame = Frame.render(load_spec("llama-guard-4"), tokenizer, "response", "Why?")
    finally:
        tokenizer._tokenizer.chat_template = before
    assert (frame.before, frame.after) == ("[Why?][", "]")


class Scripted(Engine):
    """An engine whose model gives one verdict and then writes one text."""

    max_length = 4096

    def __init__(self, builder: PromptBuilder, verdict: int, written: str) -> None:
        self._tokens = {token for _, token in builder.verdict_tokens.tree.reads[verdict]}
        self._written = np.array(builder.tokenizer.encode_template(written), np.int32)

    def next_token_logprobs(self, prompts, candidates):
        row = [0.9 if token in self._tokens else 0.01 for token in candidates]
        return np.log(np.tile(np.array(row, np.float32), (len(prompts), 1)))

    def generate(self, prompts, *_):
        return [self._written] * len(prompts)


@pytest.mark.parametrize("guard", VOCABULARIES)
def test_a_verdict_becomes_a_label(tokenizer, guard):
    builder = make_builder(guard, tokenizer)
    for number, verdict in enumerate(builder.spec.verdicts.values()):
        first = next(iter(builder.spec.categories), "")
        judge = ChatGuard(builder, Scripted(builder, number, f'{first}"}}' if '"' in builder.spec.answer else first))
        (result,) = judge.results(["The river."])
        named = tuple(builder.spec.categories.values())[:1] if verdict is not Verdict.SAFE else ()
        assert (result.label, result.failure) == (SafetyLabel(verdict, named), "")


def test_a_policy_is_part_of_the_settings(tokenizer):
    spec = load_spec("dynaguard")
    builders = [PromptBuilder(spec, tokenizer, None, None, policy) for policy in ("1. No bombs.", "1. No rivers.")]
    one, other = (ChatGuard(builder, Scripted(builder, 0, "")).settings["policy"] for builder in builders)
    assert one != other
    plain = make_builder("wildguard", tokenizer)
    assert "policy" not in ChatGuard(plain, Scripted(plain, 0, "")).settings
