"""Tokenizers as the exported model's folder holds them: the training data's ids, a template that keeps reflections."""

import json

import pytest

from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import Conversation, Kind, Part, Turn
from megatron_srp.sft.encode import ConversationEncoder
from megatron_srp.sft.template import PLAIN_JINJA, PlainTemplate, load_template
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import random_texts
from tests.helpers.instruct_tokenizer import END, EOS, instruct_tokenizer

SAFE = Part(Kind.REFLECTION, "<think> Safe </think>")
REFLECTED = "<think> Safe </think> Yes, of course. <think> Safe </think>"


@pytest.fixture(params=["gpt2", "smollm2", "llama3", "sentencepiece"])
def saved(request, tokenizer_models, tmp_path):
    """A tokenizer of each family, and what transformers loads after it was saved."""
    from transformers import AutoTokenizer

    from megatron_srp.checkpoints.hf_tokenizer import save_tokenizer

    tokenizer = load_tokenizer(*tokenizer_models[request.param])
    ids = save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert ids["eos_token_id"] == tokenizer.eos_id == loaded.eos_token_id
    return tokenizer, loaded


def test_ids_and_text_are_the_same(saved):
    tokenizer, loaded = saved
    for text in [*random_texts(5, 40), "  two spaces first", "ends in newlines\n\n", ""]:
        ids = loaded.encode(text, add_special_tokens=False)
        assert ids == tokenizer.encode(text)
        assert loaded.decode(ids) == tokenizer.decode(ids)


def test_the_chat_template_keeps_reflections(saved):
    tokenizer, loaded = saved
    eos = loaded.eos_token
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "A question?\n"},
        {"role": "assistant", "content": REFLECTED},
        {"role": "user", "content": "Another?"},
    ]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (f"System: Be kind.\nUser: A question?\n\nAssistant: {REFLECTED}{eos}User: Another?\nAssistant:")
    # The reflection that comes next has the ids that it has in the pretraining text, behind a space.
    prompt = loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    whole = loaded.encode(text + " <think> Safe </think>", add_special_tokens=False)
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt) :] == tokenizer.encode_inside(" <think> Safe </think>")
    assert loaded.eos_token_id in prompt


def test_the_chat_template_is_that_of_training(saved):
    tokenizer, loaded = saved
    if tokenizer.type == "SentencePieceTokenizer":
        pytest.skip("it marks the beginning of each text by a space, and writes no end of text")
    turns = [
        Turn.of("system", "Be kind."),
        Turn.of("user", " A question?\n"),
        Turn("assistant", (SAFE, Part(Kind.TEXT, " Yes, of course."), SAFE)),
        Turn.of("user", "Another?"),
        Turn.of("assistant", "x"),
    ]
    texts = ["Be kind.", " A question?\n", REFLECTED, "Another?"]
    messages = [{"role": turn.role, "content": text} for turn, text in zip(turns, texts, strict=False)]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    encoded = ConversationEncoder(PlainTemplate(tokenizer), ReflectionFormat())(Conversation("i", "s", tuple(turns)))
    end = len(encoded.ids) - len(tokenizer.encode_inside(" x")) - 1
    assert tokenizer.decode(encoded.ids[:end].tolist()) == text
    assert loaded(text, add_special_tokens=False).input_ids == encoded.ids[:end].tolist()


@pytest.mark.parametrize(("removes_thoughts", "kept"), [(False, True), (True, False)])
def test_the_tokenizers_own_template_stays_if_it_keeps_reflections(tokenizer_models, tmp_path, removes_thoughts, kept):
    from megatron_srp.checkpoints.hf_tokenizer import save_tokenizer

    content = "message.content" + (".split('</think>')[-1]" if removes_thoughts else "")
    own = "{% for message in messages %}<|{{ message.role }}|>{{ " + content + " }}{% endfor %}"
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    model = tokenizer.save_with_added_tokens(["<think>", "</think>"], tmp_path / "own")
    config = tmp_path / "own" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": own}))
    model = load_tokenizer("HuggingFaceTokenizer", tmp_path / "own")
    (tmp_path / "out").mkdir()
    save_tokenizer(model, tmp_path / "out")
    template = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert template == (own if kept else PLAIN_JINJA.read_text())
    if not kept:
        exported = load_tokenizer("HuggingFaceTokenizer", tmp_path / "out")
        assert isinstance(load_template(exported, None), PlainTemplate)


def test_an_end_of_text_that_special_tokens_map_names_is_exported(tokenizer_models, tmp_path):
    from megatron_srp.checkpoints.hf_tokenizer import save_tokenizer

    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    original = load_tokenizer(*tokenizer_models["gpt2"])
    (source / "tokenizer.json").write_bytes((original.model / "tokenizer.json").read_bytes())
    (source / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    ids = save_tokenizer(load_tokenizer("HuggingFaceTokenizer", source), out)
    assert ids["eos_token_id"] == original.eos_id == load_tokenizer("HuggingFaceTokenizer", out).eos_id


@pytest.mark.parametrize(
    ("eod", "written_with", "eos", "ends"),
    [
        (EOS, "tokenizer", END, [EOS, END]),
        (EOS, None, END, [EOS, END]),
        (EOS, "plain", EOS, [EOS]),  # its turns end as documents do
        (None, "tokenizer", END, [END]),
        (None, "plain", END, [END]),
    ],
)
def test_an_answer_ends_where_documents_and_turns_end(eod, written_with, eos, ends, tokenizer_models, tmp_path):
    """The template is that of the model's conversations, and `eos_token` what that template writes."""
    from transformers import AutoTokenizer

    from megatron_srp.checkpoints.hf_tokenizer import save_tokenizer

    tokenizer = instruct_tokenizer(load_tokenizer(*tokenizer_models["gpt2"]), tmp_path / "t", eod_token=eod)
    (tmp_path / "out").mkdir()
    ids = save_tokenizer(tokenizer, tmp_path / "out", written_with)
    wanted = [tokenizer.token_id(name) for name in ends]
    assert ids["eos_token_id"] == (wanted if len(wanted) > 1 else wanted[0])
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.eos_token == eos
    turns = [Turn.of("user", "A question?")]
    messages = [{"role": "user", "content": "A question?"}]
    prompt = loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt == load_template(tokenizer, written_with).prompt_ids(turns)


def test_an_end_of_turn_that_is_not_the_eos(tokenizer_models, tmp_path):
    """As in the tokenizer of Qwen's base models, whose eos ends documents and whose template ends turns."""
    from megatron_srp.checkpoints.hf_tokenizer import save_tokenizer

    base = instruct_tokenizer(load_tokenizer(*tokenizer_models["gpt2"]), tmp_path / "t", eos_token=EOS)
    (tmp_path / "out").mkdir()
    assert save_tokenizer(base, tmp_path / "out")["eos_token_id"] == [base.token_id(EOS), base.token_id(END)]
