import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.corpus import _text
from megatron_srp.corpus.batch import TextBatch, segment_batch
from megatron_srp.data import _tokens
from megatron_srp.data.align import align_batch, align_document
from megatron_srp.data.interleave import interleave_batch, interleave_document, strip_document
from megatron_srp.data.reflection_table import Entry, ReflectionTable
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.tokenization import TokenBatch
from megatron_srp.tokenization.fast import FastEncoder
from megatron_srp.unicode_classes import character_classes
from tests.helpers.changed_tokenizers import CONDITIONS, with_conditional_tokens

TABLE = ReflectionTable(
    [
        Entry(SafetyLabel(Verdict.UNSAFE, (f"c{i}",)), False, tuple(range(900, 900 + n)))
        for i, n in enumerate([3, 1, 7, 0])
    ]
)


@st.composite
def documents(draw):
    """Tokens of a document, and reflections at places in it."""
    tokens = draw(st.lists(st.integers(0, 800), max_size=40))
    cuts = sorted(draw(st.lists(st.integers(0, len(tokens)), max_size=6)))
    entries = draw(st.lists(st.integers(0, len(TABLE) - 1), min_size=len(cuts), max_size=len(cuts)))
    return tokens, cuts, entries


@settings(max_examples=300)
@given(st.lists(documents(), max_size=6), st.sampled_from([None, 999]), st.sampled_from([np.uint16, np.int32]))
def test_kernel_interleaves_as_defined_and_strip_inverts_it(docs, eod, dtype):
    cuts = np.array([cut for _, cuts, _ in docs for cut in cuts], np.int32)
    ids = np.array([entry for *_, entries in docs for entry in entries], np.uint16)
    offsets = np.cumsum([0, *(len(cuts) for _, cuts, _ in docs)], dtype=np.int64)
    tokens = TokenBatch.from_lists([tokens for tokens, *_ in docs])
    out, lengths = interleave_batch(tokens, cuts, ids, offsets, TABLE, eod, np.dtype(dtype))
    ends = np.cumsum(lengths)
    assert out.dtype == dtype
    assert int(ends[-1]) == len(out) if docs else len(out) == 0
    for (plain, own_cuts, entries), end, length in zip(docs, ends, lengths, strict=True):
        reflections = [TABLE.entries[i].ids for i in entries]
        reflected = out[end - length : end]
        assert reflected.tolist() == interleave_document(plain, own_cuts, reflections, eod)
        stripped = strip_document(reflected, own_cuts, [len(r) for r in reflections])
        assert stripped.tolist() == [*plain, *([] if eod is None else [eod])]


def test_kernel_refuses_arrays_that_do_not_fit():
    tokens = TokenBatch.from_lists([[1, 2, 3]])
    offsets = np.array([0, 1], np.int64)
    with pytest.raises(ValueError, match="interleave"):  # a cut behind the end
        interleave_batch(
            tokens, np.array([4], np.int32), np.array([0], np.uint16), offsets, TABLE, None, np.dtype("u2")
        )
    with pytest.raises(ValueError, match="interleave"):  # offsets of another batch
        wrong = np.array([0, 2], np.int64)
        interleave_batch(tokens, np.array([1], np.int32), np.array([0], np.uint16), wrong, TABLE, None, np.dtype("u2"))
    with pytest.raises(ValueError, match="segment"):
        _text.segment(b"text", np.array([0, 9]), 1, 16, "", character_classes(), np.zeros(2, np.int64))


@settings(max_examples=300)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.data())
def test_align_kernel_as_defined(widths, data):
    total = sum(widths)
    ends = sorted({*data.draw(st.lists(st.integers(1, total), max_size=8)), total})
    cuts, exact = np.empty(len(ends), np.int32), np.empty(1, np.uint8)
    table = np.arange(10, dtype=np.uint16)  # token i is i bytes wide
    tokens = np.array(widths, np.uint32)
    at = (
        np.array([0, total], np.int64),
        np.array([0, len(widths)], np.int64),
        np.array([0, len(ends)], np.int64),
    )
    _tokens.align(tokens, at[1], table, at[0], np.array(ends, np.int64), at[2], 0, cuts, exact)
    assert exact[0] == 1
    assert cuts.tolist() == align_document(ends, widths)


def test_cuts_lie_where_the_text_was_cut(any_tokenizer):
    """In English text no token reaches over a cut, but for line breaks that Llama-3's tokenizer joins to
    the full stop before them."""
    rng = random.Random(3)
    words, endings = (
        ["the", "river", "house", "said", "1848", "she"],
        [". ", ".\n", "!\n\n", "? ", ", ", '." '],
    )
    texts = ["".join(rng.choice(words) + rng.choice([" ", " ", *endings]) for _ in range(200)) for _ in range(20)]
    batch = TextBatch.from_texts(texts)
    segments = segment_batch(batch, 12)
    tokens = FastEncoder(any_tokenizer).encode_batch(batch)
    cuts = align_batch(batch, segments, tokens, any_tokenizer)
    for i, text in enumerate(texts):
        own = cuts[segments.offsets[i] : segments.offsets[i + 1]].tolist()
        ends = (segments.ends[segments.offsets[i] : segments.offsets[i + 1]] - batch.offsets[i]).tolist()
        assert own[-1] == len(tokens[i])
        for cut, end in zip(own, ends, strict=True):
            decoded = any_tokenizer.decode(tokens[i][:cut].tolist()).encode()
            wanted = text.encode()[:end]
            assert decoded[: len(wanted)] == wanted
            assert decoded[len(wanted) :].strip(b"\n") == b""


@pytest.mark.parametrize("condition", CONDITIONS)
def test_cuts_next_to_added_tokens_with_a_condition(condition, tokenizer, tmp_path):
    """A token that swallows the spaces around it has more bytes than its name."""
    conditional = with_conditional_tokens(tokenizer, tmp_path / "t", {"[INST]": condition, "foo": condition})
    sentences = ["First we saw [INST] a thing [INST] by it.", " Then food foo  food.", " It was a calm foo."]
    batch = TextBatch.from_texts(["".join(sentences), "".join(sentences[1:] * 3), sentences[2]])
    segments, tokens = segment_batch(batch, 6), FastEncoder(conditional).encode_batch(batch)
    cuts = align_batch(batch, segments, tokens, conditional)
    for i in range(len(batch)):
        assert tokens[i].tolist() == conditional.encode(batch[i])
        own = slice(segments.offsets[i], segments.offsets[i + 1])
        pieces = np.split(tokens[i], cuts[own])[:-1]
        ends = (segments.ends[own] - batch.offsets[i]).tolist()
        wanted = [batch[i][start:end] for start, end in pairwise([0, *ends])]
        decoded = [conditional.decode(piece.tolist()) for piece in pieces]
        assert [text.replace(" ", "") for text in decoded] == [text.replace(" ", "") for text in wanted]


@pytest.mark.parametrize("offsets", [np.array([0, 4], np.int32), np.array([0, 4], np.float64), np.array([0, 4])[::-1]])
def test_an_array_of_another_type_is_refused_by_name(offsets):
    with pytest.raises((TypeError, ValueError, BufferError), match=r"array of int64|contiguous"):
        _text.segment(b"text", offsets, 1, 16, "", character_classes(), np.zeros(2, np.int64))


def test_what_is_written_to_must_be_writable():
    lengths = np.zeros(1, np.int64)
    lengths.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _text.count_chars(b"text", np.array([0, 4]), lengths)
