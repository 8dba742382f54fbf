"""Encoders as guards and as fronts, with tiny models made here."""

import sys
from typing import Any

import numpy as np
import pytest
import yaml

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.annotation.engines.hf_encoder import TextEncoder
from megatron_srp.annotation.guards.classifier import ClassifierGuard, ClassifierSpec
from megatron_srp.cli.train_guard import main as train
from megatron_srp.errors import UsageError
from tests.conftest import WORDS, random_texts
from tests.helpers.corpus_files import write
from tests.helpers.moody_guard import MoodyGuard, annotate

LABELS = {0: "safe", 1: "violence", 2: "fraud"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny BERT with a head of three labels, and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", *dict.fromkeys(word.strip(".").lower() for word in WORDS)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder)
    set_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, id2label=LABELS, num_labels=3, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_vector_does_not_depend_on_its_batch(model):
    texts = [*random_texts(5, 20, most_words=50), "river", "kill " * 200]
    encoder = TextEncoder(model, batch_tokens=100)
    together = encoder.embed(texts)
    assert together.shape == (22, 32) and np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    for text, vector in zip(texts, together, strict=True):
        assert encoder.embed([text])[0] == pytest.approx(vector, abs=1e-5)
    encoder.close()


def test_an_encoder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"encoder .*nothing: no such folder, and no such model"):
        TextEncoder(tmp_path / "nothing")


def test_a_classifier_of_a_yaml_file(model, tmp_path):
    tree = {"name": "tiny", "classifier": str(model), "head": "softmax", "safe": ["safe"]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree | {"categories": {"violence": "Violent"}}))
    guard: Any = load_guard(str(tmp_path / "tiny.yaml"), GuardOptions(threshold=0.01))
    texts = random_texts(6, 5, most_words=10)
    harms = guard.harm_probabilities(texts)
    logits = guard.encoder.logits(texts)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert harms == pytest.approx(1 - shares[:, 0], abs=1e-5)
    assert {name for label in guard.classify(texts) for name in label.categories} <= {"Violent", "fraud"}
    with pytest.raises(UsageError, match="is a classifier and does not accept --guard-generate-all"):
        load_guard(str(tmp_path / "tiny.yaml"), GuardOptions(generate_all=True))


class FixedEncoder:
    """Logits that a test chooses."""

    labels, revision = list(LABELS.values()), "1"

    def __init__(self, *rows):
        self.rows = np.array(rows, np.float32)

    def logits(self, texts):
        return self.rows[: len(texts)]


@pytest.mark.parametrize(
    ("head", "row", "verdict", "categories"),
    [
        ("sigmoid", [-9, 9, 2], "Unsafe", ("violence", "fraud")),
        ("sigmoid", [-9, -2, 9], "Unsafe", ("fraud",)),
        ("sigmoid", [-9, -2, -1], "Safe", ()),
        ("softmax", [9, 0, 0], "Safe", ()),
        ("softmax", [0, 5, 0], "Unsafe", ("violence",)),
        ("softmax", [1, 0.9, 0.8], "Unsafe", ("violence",)),  # only together are they likelier than safe
    ],
)
def test_heads(head, row, verdict, categories):
    spec = ClassifierSpec("x", "y", head, safe=["safe"] if head == "softmax" else ())
    (found,) = ClassifierGuard(spec, FixedEncoder(row), 0.5).results(["text"])
    assert (str(found.label.verdict), found.label.categories) == (verdict, categories)
    assert 0.5 <= found.score <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "tanh"}, "head 'tanh'; choose from sigmoid, softmax"),
        ({"safe": []}, "a softmax head has labels that mean Safe"),
        ({"saef": 1}, "unknown field 'saef'.*did you mean 'safe'"),
        ({"safe": ["saef"]}, "its model has no label 'saef'.*did you mean 'safe'"),
        ({"categories": {"LABEL_9": "x"}}, "its model has no label 'LABEL_9'"),
    ],
)
def test_mistakes_in_the_file_are_named(model, tmp_path, change, message):
    tree = {"name": "tiny", "classifier": str(model), "head": "softmax", "safe": ["safe"]} | change
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UsageError, match=message):
        load_guard(str(tmp_path / "tiny.yaml"))


def make_static(folder):
    model2vec = pytest.importorskip("model2vec")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", *dict.fromkeys(word.strip(".").lower() for word in WORDS)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vectors = np.random.default_rng(0).normal(size=(len(words), 32)).astype(np.float32)
    model2vec.StaticModel(vectors, tokenizer).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("kind", ["encoder", "static"])
def test_a_head_learns_the_verdicts_of_a_store(model, tmp_path, kind, capsys):
    at = model if kind == "encoder" else make_static(tmp_path / "static")
    corpus = write(tmp_path / "c.jsonl", random_texts(9, 800, most_words=20))
    annotate(tmp_path / "store", [corpus], MoodyGuard(cured=True))
    flags = ["--store", str(tmp_path / "store"), "--input", str(corpus), "--out", str(tmp_path / "head")]
    train([*flags, "--kind", kind, "--model", str(at)])
    assert "segments per CPU second" in capsys.readouterr().out
    guard: Any = load_guard(f"front:{tmp_path}/head")
    harms = guard.harm_probabilities(["they kill and kill.", "the river and the house."])
    assert harms[0] > harms[1] and guard.front.card["kind"] == kind
    assert guard.harm_probabilities([]).shape == (0,)


@pytest.mark.parametrize(("kind", "more"), [("small", ["--model", "x"]), ("encoder", [])])
def test_a_kind_that_does_not_fit_its_model_is_refused(tmp_path, kind, more):
    with pytest.raises(UsageError, match=f"--kind {kind} (has no|needs a) --model"):
        train(["--store", "s", "--input", "c", "--out", "o", "--kind", kind, *more])


@pytest.mark.parametrize(
    ("engine", "message"), [("http", "runs in hf or vllm"), ("vllm", r"'megatron-srp\[annotate\]'")]
)
def test_an_engine_that_a_classifier_cannot_run_in_is_named(model, tmp_path, monkeypatch, engine, message):
    monkeypatch.setitem(sys.modules, "vllm", None)
    (tmp_path / "tiny.yaml").write_text(f"{{name: tiny, classifier: {model}, head: sigmoid}}")
    with pytest.raises(UsageError, match=f"--guard-engine {engine}.* {message}"):
        load_guard(str(tmp_path / "tiny.yaml"), GuardOptions(engine=engine))
