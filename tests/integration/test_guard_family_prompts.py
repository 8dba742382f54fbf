"""The prompts of the guards that are only a description, whole and in every mode."""

import pyarrow as pa
import pytest

from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.annotation.guards.prompts import Frame
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
