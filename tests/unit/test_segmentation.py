import re
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_srp.corpus.batch import TextBatch, segment_batch, segment_ends_in_chars
from megatron_srp.errors import UsageError
from megatron_srp.segmentation import BYTES_PER_WORD, WHITESPACE, cluster_ends, segment_text, sentence_ends
from megatron_srp.unicode_classes import TABLE, character_classes

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
    + [
        "।",
        "۔",
        "؟",
        "።",
        "។",
        "｡",
        "．",
        "§",
        "١",
        "क",
        "्",
        "ष",
        "\u200d",
        "👩",
        "🇩",
        "🇪",
        "각",
        "ᄀ",
        "ᅡ",
        "ᆨ",
        "\u0301",
        "т",
        "А",
    ]
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


PROSE = {
    "danda": "मैं घर गया और खाना खाया। वह बाज़ार में थी और रो रही थी। हम सब खुश थे। ",
    "Urdu": "میں گھر گیا اور کھانا کھایا۔ وہ بازار میں تھی اور رو رہی تھی۔ ہم سب خوش تھے۔ ",
    "Arabic": "هل ذهبت إلى البيت؟ نعم، ذهبت مع أخي الصغير! كنا سعداء جدا. ",
    "Ethiopic": "ሰላም ነው ዛሬ ወደ ቤት ሄድኩ። እሱ ግን ቆየ። ",
    "Khmer": "ខ្ញុំទៅផ្ទះ។ គាត់នៅផ្សារ។ ",
    "Burmese": "ငါအိမ်သွားတယ်။ သူဈေးမှာရှိတယ်။",
    "Tibetan": "ང་ཁྱིམ་དུ་ཕྱིན་པ་ཡིན༎ ཁོ་ཁྲོམ་ལ་ཡོད༎ ",
    "Armenian": "Ես գնացի տուն։ Նա շուկայում էր։ ",
    "Russian": "Он жил на ул. ленина. А. С. Пушкин писал стихи. Мы были рады. ",
    "Greek": "Πήγα σπίτι και έφαγα. Εκείνη ήταν στην αγορά. ",
    "German": "Er sagte: „Ich gehe.“ Dann ging er. Wir waren froh. ",
    "Japanese, half width": "これはテストです｡次の文です．",
    "Japanese": "彼は「行く。」と言った。それから行った！？",
    "Chinese": '我回家吃饭了。她说："好。"然后哭了。',
}


@pytest.mark.parametrize("name", PROSE)
@pytest.mark.parametrize("max_words", [5, 8, 20])
def test_sentences_of_other_scripts(name, max_words):
    text = PROSE[name] * 30
    pieces = [text[s.start : s.end] for s in segment_text(text, max_words)]
    assert len(pieces) > 3
    stops = set(".!?।۔؟።។။༎։｡．。？！")
    for piece in pieces[:-1]:
        last = piece.rstrip('”“」"')[-1]
        assert last in stops or not stops & set(piece.rstrip('”“」"')), piece
    assert kernel([text], max_words) == [list(np.cumsum([len(piece) for piece in pieces]))]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("वह गया। मैं आया।", ["वह गया।", " मैं आया।"]),
        ("ស្អាត។ល្អ។", ["ស្អាត។", "ល្អ។"]),
        ("دیکھا؟!» پھر", ["دیکھا؟!»", " پھر"]),
        ('好。"然后', ['好。"', "然后"]),
        ("３．５です．次", ["３．５です．", "次"]),
        ("Ｕ．Ｓ．です", ["Ｕ．Ｓ．", "です"]),
        ("А. С. Пушкин. Он", ["А. С. Пушкин.", " Он"]),
        ("см. рис. Он", ["см. рис.", " Он"]),
        ("१. पहला", ["१. पहला"]),
        ("„Ich gehe.“ Dann", ["„Ich gehe.“", " Dann"]),
        ("foo!bar 3.14 x", ["foo!bar 3.14 x"]),
        ("Wow\u203c so", ["Wow\u203c", " so"]),
    ],
)
def test_where_sentences_end(text, ends):
    cuts = [0, *sentence_ends(text)]
    assert [text[a:b] for a, b in pairwise(cuts)] == ends


CLUSTERS = ["👨‍👩‍👧‍👦", "🇩🇪", "é" + "\u0301" * 3, "क्षि", "각", "각", "ที่", "🏳️‍🌈", "👍🏽", "ന്‍റെ", "1️⃣"]


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("lead", ["", "x", "ab"])
def test_no_cut_is_inside_a_grapheme_cluster(cluster, lead):
    text = lead + cluster * 300
    clusters = regex.findall(r"\X", text)
    allowed = set(np.cumsum([len(one) for one in clusters]).tolist())
    ends = [s.end for s in segment_text(text, 3)]
    assert len(ends) > 10 and set(ends) <= allowed
    assert kernel([text], 3) == [ends]


def test_a_cluster_longer_than_the_limit_is_cut():
    text = "a" + "\u0301" * 100
    ends = [s.end for s in segment_text(text, 1)]
    assert len(ends) > 10 and kernel([text], 1) == [ends]


JOINED = st.sampled_from(
    [*"aé1क्षतം\u0d4d\u200c\u200d\u0301\u0903\u1cf5\u0600각가각🇩🇪👩🏽❤️\u200b\U00011a3a", "\ufe0f", "\u094d"]
)


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.lists(JOINED, max_size=12).map("".join), st.text(max_size=20)))
def test_clusters_are_those_of_an_independent_implementation(text):
    text = re.sub("[\r\n]", " ", text)
    assert cluster_ends(text) == np.cumsum([len(one) for one in regex.findall(r"\X", text)]).astype(int).tolist()


def test_the_table_is_unicodes():
    """Of the version that the regex package has; a newer one is for tools/make_unicode_classes.py."""
    from tools.make_unicode_classes import cluster_classes, sentence_classes, unicode_version

    if unicode_version() not in TABLE.read_text(encoding="utf-8").splitlines()[0]:
        pytest.skip(f"regex has Unicode {unicode_version()}; the table is of another version")
    classes, sentence, cluster = character_classes(), sentence_classes(), cluster_classes()
    assert all(classes[c] == sentence.get(c, 0) + 256 * cluster.get(c, 0) for c in range(0x110000))


@pytest.mark.parametrize(
    "unit",
    [
        "x",
        "a b ",
        ". ",
        "\n",
        "。",
        "”",
        "a.",
        "\u3000",
        "Mr. ",
        " ",
        '"',
        "1. ",
        "।",
        '。"',
        "é'",
        "．",
        "👩\u200d",
        "\u0301",
    ],
)
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
