import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_srp.corpus.batch import TextBatch, segment_batch, segment_ends_in_chars
from megatron_srp.errors import UsageError
from megatron_srp.segmentation import BYTES_PER_WORD, WHITESPACE, segment_text

# Pieces that meet every branch: abbreviations, quotes, wide and zero-width spaces, CJK, endless words.
PIECES = st.sampled_from(
    [
        "a",
        "Word",
        "Mr",
        "Dr.",
        "e.g.",
        "U.S.",
        ".",
        "...",
        "!",
        "?",
        "…",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\u00a0",
    ]
    + [
        "\u2003",
        "\u3000",
        "\u2028",
        "\u200b",
        "\x1c",
        "。",
        "！",
        "」",
        "”",
        "“",
        '"',
        "'",
        "(",
        ")",
        "1",
        "12",
        "3.14",
    ]
    + ["X", "é", "你", "好", "😀", "x" * 37, "I", "‘", "- ", "# Heading\n"]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=150).map("".join), st.text(max_size=300))
LONG_ASCII = st.lists(st.sampled_from(["word ", "longer ", "end. ", "x\n", "é "]), max_size=400).map("".join)


def kernel(texts: list[str], max_words: int) -> list[list[int]]:
    batch = TextBatch.from_texts(texts)
    segments = segment_batch(batch, max_words)
    ends = segment_ends_in_chars(batch, segments)
    return [ends[segments.offsets[i] : segments.offsets[i + 1]].tolist() for i in range(len(batch))]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(TEXTS, LONG_ASCII), max_size=5), st.sampled_from([1, 2, 3, 5, 10, 30, 100]))
def test_kernel_cuts_as_defined(texts, max_words):
    assert kernel(texts, max_words) == [[s.end for s in segment_text(text, max_words)] for text in texts]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 20))
@example("\u2003" + 37 * "x", 1)
def test_segments_tile_the_text_and_keep_the_limits(text, max_words):
    segments = segment_text(text, max_words)
    assert "".join(text[s.start : s.end] for s in segments) == text
    assert all(s.start < s.end for s in segments)
    for s in segments:
        piece = text[s.start : s.end]
        words = re.findall(f"[^{WHITESPACE}]+", piece)
        assert len(words) <= max_words
        assert len(words) != 1 or len(words[0].encode()) <= BYTES_PER_WORD * max_words


@pytest.mark.parametrize(
    ("text", "max_words", "expected"),
    [
        ("Mr. Smith went. He left.", 4, ["Mr. Smith went.", " He left."]),
        ("It cost 3.14 dollars in all. Fine.", 7, ["It cost 3.14 dollars in all. Fine."]),
        ("It cost 3.14 dollars in all. Fine.", 4, ["It cost 3.14 dollars", " in all. Fine."]),
        ('"Stop!" he said. Then he left.', 4, ['"Stop!" he said.', " Then he left."]),
        ("A heading\n\nThen text follows here.", 4, ["A heading", "\n\nThen text follows here."]),
        ("- one item\n- two items\n- three", 4, ["- one item", "\n- two items", "\n- three"]),
        ("a hard wrapped\nline goes on and on", 5, ["a hard wrapped\nline goes", " on and on"]),
        ("你好。世界很大。再见", 1, ["你好。", "世界很大。", "再见"]),
        ("x" * 40, 1, ["x" * 16, "x" * 16, "x" * 8]),
        ("", 3, []),
        (" \n ", 3, [" \n "]),
        ("one  ", 1, ["one  "]),
    ],
)
def test_examples(text, max_words, expected):
    assert [text[s.start : s.end] for s in segment_text(text, max_words)] == expected
    assert kernel([text], max_words) == [list(np.cumsum([len(piece) for piece in expected]))]


@pytest.mark.parametrize("unit", ["x", "a b ", ". ", "\n", "。", "”", "a.", "\u3000", "Mr. ", " ", '"', "1. "])
def test_ten_megabytes_of_anything_are_cut_quickly(unit):
    """Quadratic work on a text of this size would take hours, and the test's time limit would show it."""
    text = unit * (10_000_000 // len(unit.encode()))
    (ends,) = kernel([text], 100)
    assert ends[-1] == len(text)


@pytest.mark.parametrize("max_words", [0, -1, 100_001])
def test_impossible_limits_are_refused(max_words):
    with pytest.raises(UsageError, match="--max-words"):
        segment_text("a text", max_words)
    with pytest.raises(UsageError, match="--max-words"):
        segment_batch(TextBatch.from_texts(["a text"]), max_words)
