import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.training_tokenizer import refuse_forgeable
from megatron_srp.errors import UsageError
from megatron_srp.files import digest
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import TextTokenizer, load_tokenizer, tokenizer_fingerprint
from megatron_srp.tokenization.fast import FastEncoder
from megatron_srp.tokenization.huggingface import HuggingFaceTextTokenizer
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.changed_tokenizers import changed

TRICKY = [
    "",
    " ",
    "  two  spaces ",
    "½ cup, 2² = ٤",
    "a<|endoftext|>b",
    "</s> <s> <unk>",
    "\n\n.\n\n",
    "▁ literal",
    "日本 é 😀",
]


def test_fast_ids_are_the_references(any_tokenizer):
    texts = [*random_texts(1, 100), *TRICKY]
    encoder = FastEncoder(any_tokenizer)
    tokens = encoder.encode_batch(TextBatch.from_texts(texts))
    assert encoder.reason is None  # gigatoken did it
    assert [tokens[i].tolist() for i in range(len(texts))] == [any_tokenizer.encode(text) for text in texts]
    assert encoder.differs(TextBatch.from_texts(texts), sample=len(texts)) is None


def test_widths_add_up_to_the_text(any_tokenizer):
    for text in random_texts(2, 50):
        total = int(any_tokenizer.token_bytes[any_tokenizer.encode(text)].sum()) - any_tokenizer.extra_bytes
        assert total == len(text.encode())


def test_special_tokens_in_the_text_are_text(any_tokenizer):
    ids = any_tokenizer.encode("a<|endoftext|></s>b")
    assert any_tokenizer.eos_id not in ids
    assert any_tokenizer.decode(ids) == "a<|endoftext|></s>b"


EOS, OTHER = "<|endoftext|>", "<|im_end|>"
AS_DICT = {"content": EOS, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
DECODER = {"added_tokens_decoder": {"0": AS_DICT | {"special": True}}}


@pytest.mark.parametrize(
    ("config", "names", "expected"),
    [
        ({}, {"eos_token": EOS}, EOS),
        ({}, {"eos_token": AS_DICT, "bos_token": AS_DICT}, EOS),
        ({"eos_token": OTHER}, {"eos_token": EOS}, EOS),
        ({"eos_token": EOS}, {"pad_token": EOS}, EOS),
        ({"eos_token": EOS} | DECODER, {"eos_token": OTHER}, EOS),
        (DECODER, {"eos_token": EOS}, None),
        ({"eos_token": EOS}, None, EOS),
    ],
)
def test_the_end_of_text_is_the_one_that_transformers_reads(config, names, expected, tokenizer, tmp_path):
    from transformers import AutoTokenizer

    shutil.copy(tokenizer.model / "tokenizer.json", tmp_path)
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if names is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    loaded = load_tokenizer("HuggingFaceTokenizer", tmp_path)
    assert loaded.eos_text == AutoTokenizer.from_pretrained(tmp_path).eos_token == expected
    assert loaded.eos_id == (None if expected is None else tokenizer.eos_id)
    if expected is not None:
        again = loaded.save_with_added_tokens(["<think>"], tmp_path / "again")
        assert again.eos_id == AutoTokenizer.from_pretrained(tmp_path / "again").eos_token_id == tokenizer.eos_id


def with_added(tokenizer: TextTokenizer, folder: Path, special: bool, *names: str) -> TextTokenizer:
    """`tokenizer` with these added tokens, instead of any of the same name."""
    spec = json.loads((tokenizer.model / "tokenizer.json").read_text())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in names]
    model = Tokenizer.from_str(json.dumps(spec))
    model.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    folder.mkdir()
    model.save(str(folder / "tokenizer.json"))
    shutil.copy(tokenizer.model / "tokenizer_config.json", folder)
    return load_tokenizer("HuggingFaceTokenizer", folder)


def test_an_end_of_text_that_is_declared_an_ordinary_word_is_text_in_a_text(tokenizer, tmp_path):
    ordinary = with_added(tokenizer, tmp_path / "t", False, "<|endoftext|>")
    text = "a<|endoftext|>b"
    for ids in (ordinary.encode(text), FastEncoder(ordinary).encode_batch(TextBatch.from_texts([text]))[0].tolist()):
        assert ordinary.eos_id not in ids and ids == tokenizer.encode(text)
    assert not ordinary.text_can_be("<|endoftext|>")


def test_an_end_of_text_that_any_page_could_write_is_refused(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(UsageError, match="reads </s> in a text as its end-of-text token"):
        ReflectionIndexedDatasetBuilder(
            tmp_path / "c", load_tokenizer("HuggingFaceTokenizer", tmp_path), guard=KeywordGuard()
        )


def test_a_page_cannot_write_the_tokens_of_a_reflection(tokenizer, tmp_path):
    """Qwen3's <think> is an added token that is not special: a page's and a reflection's would be one id."""
    form, page = ReflectionFormat(special_tokens=True), "Kill. <think> Safe </think>"
    ordinary = with_added(tokenizer, tmp_path / "ordinary", False, "<think>", "</think>")
    builder = ReflectionIndexedDatasetBuilder(tmp_path / "text", ordinary, guard=KeywordGuard(), append_eod=False)
    builder.add_documents([page])
    builder.finalize()
    (tokens,) = IndexedShard(tmp_path / "text_text_document")
    assert ordinary.encode(page) == tokens[: len(ordinary.encode(page))].tolist()  # the reference's, come what may
    special = with_added(tokenizer, tmp_path / "special", True, "<think>", "</think>")
    extended = tokenizer.save_with_added_tokens(["<think>", "</think>"], tmp_path / "extended")  # as we write it
    for name, own in {"o": ordinary, "s": special, "e": extended}.items():
        builder = ReflectionIndexedDatasetBuilder(tmp_path / name, own, guard=KeywordGuard(), form=form)
        builder.add_documents([page])
        builder.finalize()
        (tokens,) = IndexedShard(tmp_path / f"{name}_text_document")
        assert tokens.tolist().count(own.token_id("<think>")) == 1  # ours, behind the page's only segment
    with pytest.raises(UsageError, match="could pass for a reflection; pass --reflection-tokens text"):
        refuse_forgeable(special, [form.open, form.close], shards=True)


def test_added_tokens_are_read_as_text_where_they_are_to_be(any_tokenizer, tmp_path):
    extended = any_tokenizer.save_with_added_tokens(["<think>"], tmp_path)
    plain, text = extended.reading_as_text(["<think>"]), "a<think>b <think> c"
    assert extended.text_can_be("<think>") and not plain.text_can_be("<think>")
    assert plain.encode(text) == any_tokenizer.encode(text) != extended.encode(text)
    assert FastEncoder(plain).encode_batch(TextBatch.from_texts([text]))[0].tolist() == plain.encode(text)
    assert plain.token_id("<think>") == extended.token_id("<think>")
    again = plain.save_with_added_tokens(["<think>"], tmp_path / "again")
    assert again.fingerprint == extended.fingerprint


def test_starts_ascend_and_count_bytes(any_tokenizer):
    for text in [t for t in TRICKY if t.strip()]:
        ids, starts = any_tokenizer.encode_with_starts(text)
        assert ids == any_tokenizer.encode(text)
        assert starts == sorted(starts)
        assert all(0 <= start <= len(text.encode()) for start in starts)


def test_a_difference_is_noticed(tokenizer):
    encoder = FastEncoder(tokenizer)
    batch = TextBatch.from_texts(["some text here"])
    encoder.tokenizer = type("Other", (), {"encode": staticmethod(lambda text: [1, 2, 3])})()
    assert encoder.differs(batch) == 0


def test_the_reference_does_what_gigatoken_refuses(tokenizer):
    encoder = FastEncoder(tokenizer)
    encoder.distrust("a test")
    texts = random_texts(5, 5)
    tokens = encoder.encode_batch(TextBatch.from_texts(texts))
    assert [tokens[i].tolist() for i in range(5)] == [tokenizer.encode(text) for text in texts]


def test_a_refusal_says_why_without_a_vocabulary(tmp_path):
    """MedSafetyWorld's tokenizer keeps every name of its world whole, with a regular expression that lists them."""
    names = "|".join(f" ?name{number}" for number in range(900))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE({character: id for id, character in enumerate(alphabet)}, []))
    split = pre_tokenizers.Split(Regex(names), "isolated")
    model.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    model.add_special_tokens(["<|endoftext|>"])
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    encoder = FastEncoder(load_tokenizer("HuggingFaceTokenizer", str(tmp_path)))
    assert encoder.reason.startswith("gigatoken refuses it: Unknown pre_tokenizer Split regexes, no fast pretokenizer")
    assert encoder.reason.endswith(" ...") and len(encoder.reason) < 150 and "name10|" not in encoder.reason


def test_fingerprints_tell_tokenizers_apart(tokenizer_models):
    prints = {name: tokenizer_fingerprint(*model) for name, model in tokenizer_models.items()}
    assert len(set(prints.values())) == len(prints)
    assert tokenizer_fingerprint(*tokenizer_models["gpt2"]) == prints["gpt2"]


def with_odd_added_tokens(spec: dict) -> None:
    free = max(spec["model"]["vocab"].values()) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for i, name in enumerate(["\x1b\x7f\u2028", "\n\t", "a", "\ue000", "\U0001f600"]):  # "a" is in the vocabulary
        spec["added_tokens"].append({"id": free + i, "content": name, **flags})


def with_dropout(spec: dict) -> None:
    spec["model"]["dropout"] = 1e-5


@pytest.mark.parametrize("family", ["gpt2", "smollm2", "llama3"])
@pytest.mark.parametrize("change", [lambda spec: None, with_odd_added_tokens, with_dropout])
def test_vocabulary_and_fingerprint_as_defined(family, change, tokenizer_models, tmp_path):
    found = changed(load_tokenizer(*tokenizer_models[family]), tmp_path / "t", change)
    vocabulary = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json")).get_vocab(with_added_tokens=True)
    assert isinstance(found, HuggingFaceTextTokenizer)
    assert found._vocabulary() == vocabulary and found.vocab_size == max(vocabulary.values()) + 1
    spec = json.loads((tmp_path / "t" / "tokenizer.json").read_text())
    behaviour = {name: spec[name] for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    assert found.fingerprint == digest([behaviour, found.eos_id])


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        ("HuggingFaceTokenizer", "/no/such/folder", "it has no tokenizer.json"),
        ("HuggingfaceTokenizer", "x", "did you mean 'HuggingFaceTokenizer'"),
        ("SentencePieceTokenizer", "/no/such.model", "no such file"),
    ],
)
def test_unusable_tokenizers_are_refused(kind, model, message):
    with pytest.raises(UsageError, match=message):
        load_tokenizer(kind, model)


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(UsageError, match="not valid JSON"):
        load_tokenizer("HuggingFaceTokenizer", tmp_path)
    (tmp_path / "x.model").write_bytes(b"junk")
    with pytest.raises(UsageError, match="not a SentencePiece model"):
        load_tokenizer("SentencePieceTokenizer", tmp_path / "x.model")
