"""The chat templates and ends of text of real instruct tokenizers."""

from pathlib import Path

import pytest

from megatron_srp.sft.conversation import Turn
from megatron_srp.sft.template import load_template
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from megatron_srp.tokenization.end_of_document import eos_note
from tests.helpers.chat_prompts import CONVERSATIONS, answers_in_training, assert_served_as_trained

# The end of a turn, which is the eos, and another end of a text in the vocabulary.
ENDS = {
    "qwen3": ("<|im_end|>", "<|endoftext|>"),
    "llama3_1": ("<|eot_id|>", "<|end_of_text|>"),
    "gemma3": ("<end_of_turn>", "<eos>"),
    "smollm2": ("<|im_end|>", "<|endoftext|>"),
    "gptoss": ("<|return|>", "<|endoftext|>"),
    "deepseek_v3": ("<｜end▁of▁sentence｜>", None),
    "llama2": ("</s>", None),
}
WITHOUT_TEMPLATE = ("gptoss", "llama2")


@pytest.fixture(scope="module", params=ENDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def chat(name: str, request: pytest.FixtureRequest, real_data: Path) -> TextTokenizer:
    if name == "smollm2":
        return load_tokenizer("HuggingFaceTokenizer", request.getfixturevalue("smollm2_tokenizer"))
    folder = real_data / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return load_tokenizer("HuggingFaceTokenizer", folder)


def test_training_reads_what_inference_reads(name: str, chat: TextTokenizer) -> None:
    from transformers import AutoTokenizer

    if name in WITHOUT_TEMPLATE:
        pytest.skip(f"{name} comes without a chat template")
    reference = AutoTokenizer.from_pretrained(chat.model)
    for conversation in CONVERSATIONS:
        ids = answers_in_training(chat, conversation)
        messages = [{"role": role, "content": content} for role, content in conversation]
        for i in [i for i, (role, _) in enumerate(conversation) if role == "assistant"]:
            prompt = reference.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=False)
            assert ids[: len(prompt)] == prompt, (i, reference.decode(ids[: len(prompt)]))
    assert load_template(chat, "tokenizer").end_of_turn == chat.token_id(ENDS[name][0])


def test_earlier_answers_are_served_as_they_were_trained(name: str, chat: TextTokenizer) -> None:
    if name in WITHOUT_TEMPLATE:
        pytest.skip(f"{name} comes without a chat template")
    for conversation in CONVERSATIONS:
        assert_served_as_trained(chat, conversation, "tokenizer")


@pytest.mark.parametrize("own", ["[INST] {{ m.content }} [/INST]", "<|user|>\n{{ m.content }}</s>\n<|assistant|>\n"])
def test_a_template_for_llama_2s_tokenizer(own: str, real_data: Path, tmp_path: Path) -> None:
    """Which puts a space before each text after a special token."""
    from transformers import PreTrainedTokenizerFast

    source = real_data / "tokenizers" / "llama2"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    answer = "{{ ' ' + m.content + ' </s>' }}" if own.startswith("[INST]") else "{{ m.content }}</s>\n"
    (tmp_path / "chat_template.jinja").write_text(
        f"{{{{ bos_token }}}}{{% for m in messages %}}{{% if m.role == 'user' %}}{own}{{% else %}}{answer}{{% endif %}}"
        "{% endfor %}"
    )
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)  # as srp export declares it
    ids = answers_in_training(load_tokenizer("HuggingFaceTokenizer", tmp_path), CONVERSATIONS[0])
    messages = [{"role": role, "content": content} for role, content in CONVERSATIONS[0]]
    for i in (1, 3):
        prompt = reference.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=False)
        assert ids[: len(prompt)] == prompt, (i, reference.decode(ids[: len(prompt)]))


def test_the_note_names_both_ends(name: str, chat: TextTokenizer) -> None:
    turn, text = ENDS[name]
    note = eos_note(chat)
    assert chat.eos_text == turn
    if text is None:
        assert note is None
        return
    assert note is not None and note.startswith(f"{turn} ends documents") and f"--eod-token '{text}'" in note
    assert ("with which its chat template ends turns" in note) == (name not in WITHOUT_TEMPLATE)
    chosen = chat.ending_documents_with(text)
    assert chosen.eos_text == text and chosen.eos_id != chat.eos_id and not chosen.text_can_be(text)
    assert load_template(chosen, "plain").prompt_ids([Turn.of("user", "x")])
