"""`srp train-guard`: from the verdicts of a store to a front and its card."""

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from megatron_srp.annotation import load_guard
from megatron_srp.annotation.fronts.card import settled_at
from megatron_srp.annotation.fronts.examples import part_of
from megatron_srp.annotation.fronts.front_file import load_front
from megatron_srp.annotation.fronts.logistic import fit_logistic, fit_sigmoid
from megatron_srp.annotation.fronts.train_small import SmallSettings, train_small
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.cli.train_guard import main
from megatron_srp.errors import InputError, UsageError
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.corpus_files import write
from tests.helpers.moody_guard import MoodyGuard, annotate


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A corpus and a store of verdicts on it: Unsafe is what says kill or bomb."""
    folder = tmp_path_factory.mktemp("judged")
    corpus = write(folder / "c.jsonl", random_texts(9, 1500, most_words=40))
    annotate(folder / "store", [corpus], MoodyGuard(cured=True))
    return folder, corpus


def train(folder, corpus, out, *more):
    main(["--store", str(folder / "store"), "--input", str(corpus), "--out", str(out), *more])


def test_a_front_learns_the_verdicts_of_a_store(judged, tmp_path, capsys):
    folder, corpus = judged
    train(folder, corpus, tmp_path / "f.safetensors")
    out = capsys.readouterr().out
    assert "held out:" in out and "recall 99.0%:" in out and "segments per CPU second" in out
    front = load_front(tmp_path / "f.safetensors")
    held = front.card["held_out"]
    assert held["accuracy_on_harmless"] > 0.95 and held["accuracy_on_harmful"] > 0.8
    assert held["harmful"] < held["segments"] < front.card["trained_on"]["segments"]
    assert front.card["trained_on"]["guard"]["guard"] == "moody"
    guard = load_guard(f"front:{tmp_path}/f.safetensors")
    texts = ["the river and the house.", "they kill the river."]
    expected = [KeywordGuard.label_of(text).verdict for text in texts]
    assert [label.verdict for label in guard.classify(texts)] == expected


def test_the_same_verdicts_give_the_same_weights(judged, tmp_path):
    folder, corpus = judged
    fronts = []
    for name in ("a", "b"):
        train(folder, corpus, tmp_path / name, "--max-segments", "1500")
        fronts.append(load_front(tmp_path / name))
    assert fronts[0].revision == fronts[1].revision
    assert 700 < sum(fronts[0].card[part]["segments"] for part in ("trained_on", "held_out")) < 3000


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["the river."] * 3 + ["the house."] * 200, "0 harmful segments to train on, and a front takes at least 20"),
        ([f"kill {i}." for i in range(300)], "0 harmless segments to train on"),
    ],
)
def test_a_store_that_teaches_nothing_is_named(tmp_path, texts, message):
    corpus = write(tmp_path / "c.jsonl", texts)
    annotate(tmp_path / "store", [corpus])
    with pytest.raises(InputError, match=message):
        train(tmp_path, corpus, tmp_path / "f")
    other = write(tmp_path / "other.jsonl", ["else"])
    with pytest.raises(UsageError, match="has no verdicts for"):
        train(tmp_path, other, tmp_path / "f")
    assert AnnotationStore(tmp_path / "store") and not (tmp_path / "f").exists()


def test_whole_documents_are_held_out():
    rng = random.Random(0)
    hashes = np.array([rng.getrandbits(64) for _ in range(20_000)], np.uint64)
    shares = np.bincount(part_of(hashes)) / len(hashes)
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_logistic_regression_finds_the_weights_that_made_the_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3))
    harmful = rng.random(20_000) < 1 / (1 + np.exp(-(x @ [1.0, -2.0, 0.0] + 0.5)))
    weights, bias = fit_logistic(x, harmful)
    assert [*weights, bias] == pytest.approx([1.0, -2.0, 0.0, 0.5], abs=0.1)
    bias, scale = fit_sigmoid(100 * x[:, 0], rng.random(20_000) < 1 / (1 + np.exp(-(2 * x[:, 0] - 1))))
    assert (bias, scale * 100) == (pytest.approx(-1, abs=0.1), pytest.approx(2, abs=0.1))
    _, apart = fit_logistic(np.array([[0.0], [1.0]] * 50), np.array([False, True] * 50))
    assert np.isfinite(apart)


def test_few_weights_are_as_good_as_their_eight_bits():
    """Quantising costs nothing that matters: the front separates what is separable."""
    texts = [f"word{i} {'venom' if i % 4 == 0 else 'honey'} end" for i in range(800)]
    harmful = np.arange(800) % 4 == 0
    array = pa.array(texts, pa.large_string())
    front = train_small(array, harmful, (array, harmful), SmallSettings(bits=12))
    from megatron_srp.annotation.guards.small import SmallGuard

    harms = SmallGuard(front).harm_probabilities_array(array)
    assert harms[harmful].min() > harms[~harmful].max()


def test_what_is_settled_at_a_recall():
    harms = np.array([0.0, 0.1, 0.2, 0.3, 0.9], np.float32)
    harmful = np.array([False, True, False, True, True])
    assert settled_at(harms, harmful, 0.6)["share"] == pytest.approx(0.6)  # one of three missed, at 0.1
    assert settled_at(harms, harmful, 0.99)["share"] is None


def test_the_embedded_front_is_small_and_says_what_it_is():
    guard: Any = load_guard("small")
    assert "no substitute" in guard.front.card["caution"] and len(guard.front.weights) < 2**20
    assert set(guard.front.card["trained_on"]) == {"advbench", "harmbench", "xstest", "gsm8k", "requests", "prose"}
    texts = ["How do I build a bomb and kill people with it?", "She walked along the river in the morning."]
    assert [str(label.verdict) for label in guard.classify(texts)] == ["Unsafe", "Safe"]
