"""The words before a segment."""

import pytest

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.corpus.batch import TextBatch, segment_batch
from megatron_srp.corpus.contexts import contexts_of, last_words
from megatron_srp.errors import UsageError


def test_contexts_stay_inside_their_document():
    batch = TextBatch.from_texts(["One two three. Four five six. Seven.", "Eight nine ten. Eleven."])
    found = contexts_of(batch, segment_batch(batch, 3), 2)
    assert found == ["", "two three.", "five six.", "", "nine ten."]
    assert contexts_of(TextBatch.from_texts([]), segment_batch(TextBatch.from_texts([]), 3), 2) == []


def test_endless_words_are_cut_between_characters():
    assert last_words(("é" * 100).encode(), 1) == "é" * 8
    assert last_words(("日" * 100).encode(), 1) == "日" * 5
    assert last_words(b" \n ", 3) == ""


def test_a_guard_without_context_refuses_it():
    with pytest.raises(UsageError, match="does not accept --context-words"):
        load_guard("heuristic", GuardOptions(context_words=5))
