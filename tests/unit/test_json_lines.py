"""JSON lines: the fast way finds what orjson finds, and the kernels what Python says."""

import json
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_srp.corpus import _text
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.corpus.jsonl import JsonLines, parse_line

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def unescape(strings: list[bytes]) -> list[bytes | None]:
    offsets, bad = np.empty(len(strings) + 1, np.int64), np.empty(len(strings), np.uint8)
    text = _text.unescape(strings, offsets, bad)
    assert offsets[-1] == len(text)
    return [None if bad[i] else text[offsets[i] : offsets[i + 1]] for i in range(len(strings))]


@given(st.lists(TEXTS, max_size=6))
def test_pack_puts_texts_one_after_the_other(texts):
    batch = TextBatch.from_texts(texts)
    assert [batch[i] for i in range(len(batch))] == texts
    assert batch.text.tobytes() == "".join(texts).encode()


def test_pack_refuses_what_is_no_text():
    with pytest.raises(TypeError):
        _text.pack([b"bytes"], np.empty(2, np.int64))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="one longer"):
        _text.pack(["a"], np.empty(3, np.int64))
    with pytest.raises(UnicodeEncodeError):
        TextBatch.from_texts(["a", "\ud800"])


@given(st.lists(st.tuples(TEXTS, st.booleans()), max_size=6))
def test_unescape_is_the_inverse_of_json(texts):
    strings = [json.dumps(text, ensure_ascii=escaped).encode() for text, escaped in texts]
    assert unescape(strings) == [text.encode() for text, _ in texts]


@given(st.lists(st.one_of(st.binary(max_size=12), st.text('"\\u0dD8cF/bn', max_size=12).map(str.encode)), max_size=6))
def test_unescape_takes_nothing_that_is_no_string(strings):
    for string, found in zip(strings, unescape(strings), strict=True):
        quoted = len(string) > 1 and string[:1] == string[-1:] == b'"'
        if not quoted:
            assert found is None
        elif b"\\" not in string:
            assert found == string[1:-1]
        else:
            try:
                expected = json.loads(string, strict=False)
                expected.encode()  # a lone surrogate is no text
            except ValueError:
                expected = None
            # An inner quote ends a JSON string; the kernel is given whole ones only.
            if b'"' not in string[1:-1].replace(b'\\"', b""):
                assert found == (None if expected is None else expected.encode())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda v: st.lists(v, max_size=3), max_leaves=4
)


@given(
    st.lists(
        st.one_of(
            st.dictionaries(st.sampled_from(["text", "other", "x"]), VALUES, max_size=3).map(
                lambda record: json.dumps(record).encode()
            ),
            st.binary(max_size=30),
        ),
        max_size=8,
    )
)
def test_lines_give_what_orjson_gives(lines):
    batch = JsonLines(Path("file"), ["text"])
    expected, errors = [], []
    for row, line in enumerate(lines):
        batch.add(row, line)
        try:
            expected.append((row, parse_line(line, ["text"])[0]))
        except ValueError as error:
            errors.append(f"file, line {row + 1}: {error}")
    if not lines:
        return
    rows, texts, found_errors = batch.texts()
    found = [(row, texts["text"][i]) for i, row in enumerate(rows.tolist())]
    # Only what stands under the key is asked about: junk elsewhere in a line may pass.
    assert set(found_errors) <= set(errors)
    assert [pair for pair in found if pair in expected] == expected


@pytest.mark.parametrize(
    "line",
    [
        b'{"te\\u0078t": "found"}',
        b' {"text":\t"found" } ',
        b'{"text": "first", "text": "found"}',
        b'{"other": {"text": 1}, "text": "found"}',
    ],
)
def test_unusual_lines(line):
    assert orjson.loads(line)["text"] == "found"
    batch = JsonLines(Path("file"), ["text"])
    batch.add(0, line)
    assert batch.texts()[1]["text"][0] == "found"


@pytest.mark.parametrize(
    "odd",
    [
        b"NaN",
        b"-Infinity",
        b'[1, {"a": Infinity}]',
        b"1e400",
        b'"\\ud800"',
        b'"x\\udc00y"',
        b'{"\\ud800": 1}',
        b'"\xff", "z": NaN',
    ],
)
def test_odd_values_under_other_keys_do_not_lose_the_text(odd):
    """Python's json writes and reads them."""
    batch = JsonLines(Path("file"), ["text"])
    for row, line in enumerate([b'{"text": "\\u00e9 1", "x": %b}', b'{"x": %b, "text": "\xc3\xa9 1"}']):
        batch.add(row, line % odd)
    rows, texts, errors = batch.texts()
    assert (rows.tolist(), [texts["text"][i] for i in range(2)], errors) == ([0, 1], ["é 1", "é 1"], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"NaN", "'text' is float, not a string"),
        (b'"\\ud800"', "'text' holds a lone surrogate"),
        (b'"\\udc00 \\ud83d"', "'text' holds a lone surrogate"),
        (b'"\xff"', "bytes that are not UTF-8"),
        (b"nan", "not valid JSON"),
        (b"01", "not valid JSON"),
    ],
)
def test_odd_values_under_the_wanted_key_are_a_bad_row(text, message):
    batch = JsonLines(Path("file"), ["text"])
    for row, line in enumerate([b'{"text": %b}', b'{"x": Infinity, "text": %b}', b'{"text": %b, "x": "\\udc00"}']):
        batch.add(row, line % text)
    rows, _, errors = batch.texts()
    assert not len(rows) and len(errors) == 3
    assert all(message in error for error in errors)


def test_a_key_that_msgspec_does_not_take():
    batch = JsonLines(Path("file"), ['a"b'])
    for row, line in enumerate([b'{"a\\"b": "found"}', b"{}"]):
        batch.add(row, line)
    rows, texts, errors = batch.texts()
    assert (rows.tolist(), texts['a"b'][0], len(errors)) == ([0], "found", 1)


def test_a_line_nested_without_end():
    batch = JsonLines(Path("file"), ["text"])
    batch.add(0, b'{"text":' + b"[" * 200_000)
    assert "not valid JSON" in batch.texts()[2][0]
