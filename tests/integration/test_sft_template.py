"""Our rendering of chat templates against Hugging Face's, and a chat guard that judges prompts and responses."""

from pathlib import Path

import pytest

from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.sft.conversation import Conversation, Turn
from megatron_srp.sft.encode import ConversationEncoder
from megatron_srp.sft.history import examples
from megatron_srp.sft.reflect import reflection_parts
from megatron_srp.sft.template import load_template
from megatron_srp.tokenization import TextTokenizer
from tests.helpers.chat_prompts import CONVERSATIONS, assert_served_as_trained
from tests.unit.test_sft_shard import CHATML, with_template

TURNS = (
    Turn.of("user", " Where is\n\nthe river? "),
    Turn.of("assistant", "Under the house."),
    Turn.of("user", "\nAnd the window?"),
    Turn.of("assistant", "Across."),
)
TEMPLATES = {
    "chatml": CHATML,
    "strips, and has a default system turn": (
        "{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{%- endif %}"
        "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>' + '\n' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_usual_inference(name: str, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat = with_template(tokenizer, tmp_path / "chat", TEMPLATES[name])
    reference = AutoTokenizer.from_pretrained(str(chat.model))
    strip = str.strip if name != "chatml" else str
    turns = tuple(Turn.of(turn.role, strip(turn.text)) for turn in TURNS)
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    template = load_template(chat, None)
    prompt = reference.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    assert template.prompt_ids(turns[:1]) == reference(prompt, add_special_tokens=False).input_ids
    whole = reference.apply_chat_template(messages, tokenize=False).removesuffix("\n")
    ids = ConversationEncoder(template, ReflectionFormat())(Conversation("i", "s", turns)).ids.tolist()
    assert reference.decode(ids) == whole


@pytest.mark.parametrize("name", TEMPLATES)
def test_earlier_answers_are_served_as_they_were_trained(name: str, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    chat = with_template(tokenizer, tmp_path / "chat", TEMPLATES[name])
    for conversation in CONVERSATIONS:
        assert_served_as_trained(chat, conversation, "tokenizer")


def test_so_they_are_in_the_plain_form(tokenizer: TextTokenizer) -> None:
    for conversation in CONVERSATIONS:
        assert_served_as_trained(tokenizer, conversation, "plain")


def test_an_answer_without_reflections_is_learned_where_it_is() -> None:
    plain = Conversation("i", "s", TURNS)
    assert list(examples(plain)) == [plain]


def test_an_answer_of_which_nothing_was_shown(tokenizer: TextTokenizer) -> None:
    """In the history it is empty, and it is an example of its own."""
    form = ReflectionFormat()
    stopped = Turn("assistant", tuple(reflection_parts(SafetyLabel(Verdict.UNSAFE), form)))
    conversation = Conversation("i", "s", (TURNS[0], stopped, *TURNS[2:]))
    first, second = map(ConversationEncoder(load_template(tokenizer, "plain"), form), examples(conversation))
    assert first.mask.any() and tokenizer.decode(first.ids.tolist()).endswith("Unsafe </think><|endoftext|>")
    assert "think" not in tokenizer.decode(second.ids.tolist())
    assert tokenizer.decode(second.ids[second.mask == 1].tolist()) == " Across.<|endoftext|>"


def test_a_chat_guard_judges_in_both_modes_with_one_model(tiny_guard: Path) -> None:
    from megatron_srp.annotation import GuardOptions, load_guard
    from megatron_srp.annotation.guards.chat_guard import ChatGuard

    guard = load_guard("qwen3guard", GuardOptions(model=str(tiny_guard)))
    prompt, response = guard.in_mode("prompt"), guard.in_mode("response")
    assert isinstance(prompt, ChatGuard)
    assert isinstance(response, ChatGuard)
    assert prompt.engine is response.engine
    assert (prompt.settings["mode"], response.settings["mode"]) == ("prompt", "response")
    assert len(response.classify(["She walked across the river."])) == 1
    assert guard.in_mode("poem") is guard
