"""The `small` front: features in C as in Python, its file, its guard."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.annotation.fronts.features import batch_features, score_batch, text_features
from megatron_srp.annotation.fronts.front_file import Front, load_front, save_front
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.errors import InputError, UsageError

TEXTS = st.lists(st.one_of(st.text(max_size=40), st.sampled_from(["", " ", "A b", "a\t\n b", "Über-½", "x" * 9])))


def make_front(bits: int = 10, seed: int = 0) -> Front:
    weights = np.random.default_rng(seed).integers(-127, 128, 1 << bits).astype(np.int8)
    return Front(weights, -1.0, 0.05, {"trained on": "nothing"})


@settings(deadline=None, max_examples=300)
@given(texts=TEXTS, bits=st.integers(8, 20))
def test_features_are_those_of_the_definition(texts, bits):
    batch = TextBatch.from_texts(texts)
    found, offsets = batch_features(batch, bits)
    weights = np.random.default_rng(1).integers(-127, 128, 1 << bits).astype(np.int8)
    sums, counts = score_batch(batch, weights)
    for i, text in enumerate(texts):
        expected = text_features(text, bits)
        assert sorted(found[offsets[i] : offsets[i + 1]].tolist()) == sorted(expected)
        assert counts[i] == len(expected) and sums[i] == sum(int(weights[f]) for f in expected)


def test_case_and_layout_make_no_difference():
    assert sorted(text_features("How TO\n\tkill  it?", 18)) == sorted(text_features("how to kill it? ", 18))
    assert sorted(text_features("kill to", 18)) != sorted(text_features("to kill", 18))


def test_arrays_that_do_not_fit_together_are_refused():
    batch = TextBatch.from_texts(["abc"])
    with pytest.raises(ValueError, match="do not fit"):
        score_batch(batch, np.zeros(1000, np.int8))
    with pytest.raises(ValueError, match="do not fit"):
        batch_features(TextBatch(batch.text, np.array([0, 9])), 18)


def test_a_file_gives_back_the_front_and_equal_fronts_equal_bytes(tmp_path):
    front = make_front()
    for name in ("a", "b"):
        save_front(front, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    again = load_front(tmp_path / "a.safetensors")
    assert again.revision == front.revision and again.card == front.card
    assert make_front(seed=1).revision != front.revision


@pytest.mark.parametrize("content", [b"", b"not one", b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_no_front_is_one_line(tmp_path, content):
    (tmp_path / "bad").write_bytes(content)
    for path in (tmp_path / "bad", tmp_path / "missing"):
        with pytest.raises(InputError, match=r"not a front, or damaged .*make one with `srp train-guard`"):
            load_front(path)


def test_the_guard_calls_unsafe_from_the_threshold_on(tmp_path):
    save_front(make_front(), tmp_path / "f.safetensors")
    texts = ["one", "a longer text of words", "x" * 50, ""]
    guard = load_guard(f"front:{tmp_path}/f.safetensors")
    harm = guard.harm_probabilities(texts)
    middle = float(np.sort(harm)[1:3].mean())
    guard = load_guard(f"front:{tmp_path}/f.safetensors", GuardOptions(threshold=middle))
    expected = ["Unsafe" if p >= middle else "Safe" for p in harm]
    assert len(set(expected)) == 2
    assert [str(label.verdict) for label in guard.classify(texts)] == expected
    for array in (pa.array(texts), pa.array(["x", *texts], pa.large_string())[1:]):
        assert [str(one.label.verdict) for one in guard.results_array(array)] == expected
    assert guard.settings["threshold"] == middle
    with pytest.raises(UsageError, match="only --guard-threshold"):
        load_guard(f"front:{tmp_path}/f.safetensors", GuardOptions(model="x"))
