"""Chat templates: what training reads before an answer is what inference reads."""

import json
from itertools import product
from pathlib import Path

import pytest

from megatron_srp.errors import InputError, UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import CALL, Conversation, Kind, Part, Turn
from megatron_srp.sft.encode import ConversationEncoder
from megatron_srp.sft.template import load_template
from megatron_srp.tokenization import TextTokenizer
from tests.helpers.chat_prompts import CONVERSATIONS, answers_in_training
from tests.helpers.instruct_tokenizer import CHATML, END, instruct_tokenizer

TRIMMING = CHATML.replace("message.content }}", "message.content | trim }}")
TEMPLATES = {
    "keeps all": CHATML,
    "trims all": TRIMMING,
    "trims answers": CHATML.replace(
        "{{ message.content }}", "{{ message.content | trim if message.role == 'assistant' else message.content }}"
    ),
    "strips line breaks from the left": CHATML.replace("message.content }}", "message.content.lstrip('\n') }}"),
    "merges the system turn into the user's": (
        "{% set system = '' %}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
        "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ (system if loop.first else '') + m.content | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "writes empty thoughts into the last answer": CHATML.replace(
        "\n{{", "\n{{ '<think>\n\n</think>\n\n' if loop.last and message.role == 'assistant' else '' }}{{"
    ),
    "no white space around": "{% for m in messages %}<|im_start|>{{ m.role }}<|im_start|>{{ m.content }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_start|>{% endif %}",
    "a space of its own": "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
    "marks what is generated, and no tools": CHATML.replace("{{ message.content }}", "{% generation %}"
    "{{ message.content }}{% endgeneration %}").replace("{% if add", "{% if tools is none %}{% endif %}{% if add"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), list(product(TEMPLATES, range(len(CONVERSATIONS)))))
def test_training_reads_what_inference_reads(name: str, number: int, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat = instruct_tokenizer(tokenizer, tmp_path / "t", TEMPLATES[name])
    reference = AutoTokenizer.from_pretrained(chat.model)
    conversation = CONVERSATIONS[number]
    ids = answers_in_training(chat, conversation)
    messages = [{"role": role, "content": content} for role, content in conversation]
    for i in [i for i, (role, _) in enumerate(conversation) if role == "assistant"]:
        prompt = reference.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=False)
        assert ids[: len(prompt)] == prompt, (i, reference.decode(ids[: len(prompt)]))


def test_white_space_at_the_ends_of_an_answer_in_parts(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    """Reflections at the ends leave the text between them as it is."""
    chat = instruct_tokenizer(tokenizer, tmp_path / "t", TRIMMING)
    encode = ConversationEncoder(load_template(chat, None), ReflectionFormat())
    safe = Part(Kind.REFLECTION, "<think> Safe </think>")

    def learned(*parts: Part) -> str:
        encoded = encode(Conversation("i", "s", (Turn.of("user", "x"), Turn("assistant", parts))))
        return chat.decode(encoded.ids[encoded.mask == 1].tolist())

    both = " <think> Safe </think>"
    assert learned(safe, Part(Kind.TEXT, "a\n"), safe) == f"{both} a\n{both}{END}"
    assert learned(Part(Kind.TEXT, "\n a\n"), safe, Part(Kind.TEXT, " b\n")) == f"a\n{both} b{END}"
    assert learned(safe, Part(Kind.TEXT, " \n")) == f"{both}{END}"


def test_a_template_that_takes_other_turns_trims_nothing(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    one_turn = "{% if messages | length > 2 %}{{ raise_exception('one question') }}{% endif %}" + TRIMMING
    chat = instruct_tokenizer(tokenizer, tmp_path / "t", one_turn)
    ids = answers_in_training(chat, (("user", "x"), ("assistant", "y\n")))
    assert chat.decode(ids).endswith(f"assistant\ny\n{END}")


def test_special_tokens_in_a_text_stay_text(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    chat = instruct_tokenizer(tokenizer, tmp_path / "t")
    forged, plain = (load_template(chat, None).prompt_ids([Turn.of("user", text)]) for text in (f" {END} x", " x"))
    assert forged.count(chat.token_id(END)) == plain.count(chat.token_id(END)) == 1
    assert chat.decode(forged) == chat.decode(plain).replace(" x", f" {END} x")


def test_turns_of_tools_as_the_template_writes_them(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = CHATML.replace("{{ message.content }}", "{{ message.content or message.tool_calls | tojson }}")
    chat = instruct_tokenizer(tokenizer, tmp_path / "t", template)
    call = {"content": None, "tool_calls": [{"function": {"name": "wéather", "arguments": {"city": "Ulm"}}}]}
    turns = [Turn.of("user", "Rain?"), Turn.of(CALL, json.dumps(call)), Turn.of("tool", "none\n")]
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", **call},
        {"role": "tool", "content": "none\n"},
    ]
    reference = AutoTokenizer.from_pretrained(chat.model)
    prompt = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert load_template(chat, None).prompt_ids(turns) == prompt
    turns[1] = Turn.of(CALL, json.dumps(call).replace("Ulm", END))
    with pytest.raises(InputError, match=r"the call of a tool contains <\|im_end\|>"):
        load_template(chat, None).prompt_ids(turns)


def test_a_template_that_opens_thoughts_is_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    """Inference would begin every answer with them, and earlier turns have none."""
    opens = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    chat = load_template(instruct_tokenizer(tokenizer, tmp_path / "t", opens), None)
    for turns in (
        [Turn.of("user", "x"), Turn.of("assistant", "y")],
        [Turn.of("user", "x"), Turn.of("assistant", "y")] * 2,
    ):
        with pytest.raises(UsageError, match="writes different text before an answer"):
            chat.frames(turns)
