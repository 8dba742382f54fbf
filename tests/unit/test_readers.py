"""Documents read from files of every format, whole, damaged and bad."""

import bz2
import gzip
import lzma
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.corpus import compression, readers
from megatron_srp.corpus.readers import read_batches, read_raw
from megatron_srp.errors import InputError, SrpError
from megatron_srp.files import file_fingerprint
from tests.helpers.corpus_files import TEXTS, write


def read(files, start=(0, 0), skip=False):
    return [
        (batch.file, int(row), batch.texts["text"][i])
        for batch in read_batches(files, ["text"], start, skip)
        for i, row in enumerate(batch.rows)
    ]


NAMES = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2", "a.jsonl.xz", "a.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_documents(tmp_path, name, monkeypatch):
    monkeypatch.setattr(readers, "BATCH_BYTES", 5000)
    path = write(tmp_path / name)
    everything = read([path])
    assert everything == [(0, i, text) for i, text in enumerate(TEXTS)]
    assert read([path], (0, 137)) == everything[137:]
    assert read([path, path], (1, 250)) == [(1, i, text) for _, i, text in everything[250:]]


def test_lines_with_cr_bom_blanks_and_no_last_break(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "b"}')
    assert read([path]) == [(0, 0, "a"), (0, 3, "b")]


@pytest.mark.parametrize("first", [0x50, 0x5F])
def test_zstd_may_begin_with_a_frame_to_skip(tmp_path, first):
    """pzstd writes one before each block."""
    path = write(tmp_path / "a.jsonl.zst")
    data, skipped = path.read_bytes(), bytes([first]) + b"\x2a\x4d\x18" + b"\x04\0\0\0" + b"size"
    path.write_bytes(skipped + data + skipped + zstandard.compress(b'{"text": "last"}\n') + skipped)
    assert read([path]) == [(0, i, text) for i, text in enumerate([*TEXTS, "last"])]
    path.write_bytes(skipped + data + skipped[:-2])
    with pytest.raises(InputError, match="damaged or truncated"):
        read([path])


@pytest.mark.parametrize("window", [27, 28, 31])
def test_zstd_windows_of_any_size_that_the_library_reads(tmp_path, window):
    """`zstd --long=31` writes windows of 2 GiB; the library's default stops at 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # of a size it is not told
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(stream.compress(write(tmp_path / "a.jsonl").read_bytes()) + stream.flush())
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 1 << window
    assert read([path]) == [(0, i, text) for i, text in enumerate(TEXTS)]


def test_a_zstd_window_beyond_what_the_library_reads_is_not_called_damage(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([22 << 3]) + b"\0" * 20)  # a frame header: window 2^32
    with pytest.raises(InputError, match="window is above 2 GiB; compress it with --long=31 or less"):
        read([path], skip=True)


def test_xz_may_be_padded(tmp_path):
    """With zeros, between streams and after them."""
    path = write(tmp_path / "a.jsonl.xz")
    path.write_bytes(path.read_bytes() + bytes(8) + lzma.compress(b'{"text": "last"}\n') + bytes(4))
    assert read([path]) == [(0, i, text) for i, text in enumerate([*TEXTS, "last"])]


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst"])
def test_a_damaged_second_stream_is_not_the_end(tmp_path, name):
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes() + b"BZhx" * 9)
    with pytest.raises(InputError, match="damaged or truncated"):
        read([path])


def test_decompressed_blocks_are_short(tmp_path):
    """Highly repetitive text of bzip2 or xz comes in blocks too."""
    kinds: dict[str, Any] = {"a.bz2": bz2.compress, "a.xz": lzma.compress}
    for name, compress in kinds.items():
        (tmp_path / name).write_bytes(compress(bytes(5 * compression.BLOCK).replace(b"\0", b"-")))
        blocks = list(compression.read_blocks(tmp_path / name))
        assert max(map(len, blocks)) <= compression.BLOCK and b"".join(blocks) == b"-" * 5 * compression.BLOCK


LINES = b'{"text": "fine"}\n' * 50
OTHER_KINDS = {
    "lz4": (b"\x04\x22\x4d\x18" + bytes(30), "holds lz4; decompress it"),
    "snappy": (b"\xff\x06\x00\x00sNaPpY" + bytes(30), "holds snappy; decompress it"),
    "zip": (b"PK\x03\x04" + bytes(30), "holds zip; decompress it"),
    "compressed twice": (gzip.compress(gzip.compress(LINES)), "holds gzip; decompress it, or compress it once"),
    "tar.gz": (gzip.compress(b"a.jsonl".ljust(257, b"\0") + b"ustar" + bytes(250) + LINES), "holds a tar archive"),
    "Arrow": (b"ARROW1\0\0" + bytes(30), "holds Arrow data"),
    "Parquet in gzip": (gzip.compress(b"PAR1" + bytes(30)), "holds Parquet data"),
    "UTF-16 with a mark": (LINES.decode().encode("utf-16"), "is UTF-16 or UTF-32, not UTF-8; convert it: iconv"),
    "UTF-16": (LINES.decode().encode("utf-16-be"), "is UTF-16 or UTF-32"),
    "UTF-32 in xz": (lzma.compress(LINES.decode().encode("utf-32-le")), "is UTF-16 or UTF-32"),
    "of unknown kind": (b"\x0b\x19\x80brotli\n" * 9, r"line \d: not valid JSON"),
    "without the key": (b'{"content": "fine"}\n' * 50, r"line \d: no key 'text'; it has 'content'"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_a_whole_file_is_never_left_out_as_bad_rows(tmp_path, kind, skip):
    content, message = OTHER_KINDS[kind]
    path, fine = tmp_path / "x", write(tmp_path / "fine.jsonl")
    path.write_bytes(content)
    for start in [(0, 0), (1, 0), (1, 7)]:  # 7: the run was stopped in the file
        with pytest.raises(InputError, match=f"x.*{message}"):
            read([fine, path], start, skip)


def test_a_file_whose_first_lines_are_bad_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"junk\n" * 200 + LINES + b"junk\n")
    assert [row for _, row, _ in read([path], skip=True)] == list(range(200, 250))


def test_an_empty_file_is_read(tmp_path):
    for path in (tmp_path / "a.jsonl", tmp_path / "a.jsonl.bz2", tmp_path / "a.jsonl.xz"):
        assert read([write(path, [])], skip=True) == []


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_files_give_one_clear_line(tmp_path, name, damage):
    path = write(tmp_path / name)
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read([path])
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x', "not valid JSON"),
        (b'{"text": "\xff\xfe"}', "not valid JSON"),
        (b'{"text": "\\ud800"}', "not valid JSON"),
        (b'["text"]', "expected a JSON object"),
        (b'{"txt": "x"}', "no key 'text'; it has 'txt'"),
        (b'{"text": 7}', "'text' is int, not a string"),
        (b'{"text": null}', "'text' is NoneType, not a string"),
    ],
)
def test_bad_lines(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b'\n{"text": "also fine"}\n')
    with pytest.raises(InputError) as error:
        read([path])
    assert f"{path}, line 2: {message}" in str(error.value)
    assert "--on-error skip" in str(error.value)
    assert read([path], skip=True) == [(0, 0, "fine"), (0, 2, "also fine")]
    (batch,) = read_batches([path], ["text"], skip_errors=True)
    assert len(batch.errors) == 1
    assert message in batch.errors[0]


def test_bad_parquet_rows_and_columns(tmp_path):
    path = tmp_path / "a.parquet"
    raw = pa.array([b"fine", b"\xff\xfe", None], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    pq.write_table(pa.table({"text": text, "n": [1, 2, 3]}), path)
    with pytest.raises(InputError, match="row 3: 'text' is null"):
        read([path])
    assert read([path], skip=True) == [(0, 0, "fine")]
    with pytest.raises(InputError, match="column 'n' is int64, not a string"):
        list(read_batches([path], ["n"]))
    with pytest.raises(InputError, match="no column 'body'; it has 'text', 'n'"):
        list(read_batches([path], ["body"]))


@pytest.mark.parametrize("names", [["text", "text"], ["text", "id", "text"], ["text"] * 3])
def test_parquet_columns_of_one_name(tmp_path, names):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a", "b"])] * len(names), names), path)
    for skip in (False, True):
        with pytest.raises(InputError, match=f"a.parquet: {names.count('text')} columns are called 'text'; rename"):
            read([path], skip=skip)
    if "id" in names:  # what nobody asked for may be there twice
        assert [batch.texts["id"][1] for batch in read_batches([path], ["id"])] == ["b"]


def test_a_row_that_is_bad_under_two_keys_is_one_bad_row(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["1", None, None], "b": ["2", None, "3"]}), path)
    (batch,) = read_batches([path], ["a", "b"], skip_errors=True)
    assert [error.partition(", ")[2] for error in batch.errors] == [
        "row 2: 'a' is null, not a string",
        "row 3: 'a' is null, not a string",
    ]
    assert (batch.rows.tolist(), batch.texts["b"][0]) == ([0], "2")


def test_several_keys(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "1", "b": "2"}\n{"a": "3", "b": "4"}\n')
    (batch,) = read_batches([path], ["b", "a"])
    assert {key: [text[0], text[1]] for key, text in batch.texts.items()} == {
        "b": ["2", "4"],
        "a": ["1", "3"],
    }


def test_file_fingerprints_follow_the_content(tmp_path):
    first, copy, other = (
        write(tmp_path / n, t) for n, t in [("1.jsonl", ["a"]), ("2.jsonl", ["a"]), ("3.jsonl", ["b"])]
    )
    assert file_fingerprint(first) == file_fingerprint(copy) != file_fingerprint(other)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
)
def test_any_damage_is_our_error_or_a_result(tmp_path_factory, name, edits):
    path = write(tmp_path_factory.mktemp("fuzz") / name, TEXTS[:40])
    data = bytearray(path.read_bytes())
    for where, junk in edits:
        at = int(where * len(data))
        data[at : at + len(junk)] = junk
    path.write_bytes(data)
    try:
        for text in read([path], skip=True):
            assert isinstance(text[2], str)
    except SrpError as error:
        assert str(path) in str(error)


@given(st.lists(st.binary(max_size=9).map(lambda line: line.translate(None, b"\n\0")), max_size=9), st.integers(1, 9))
def test_lines_are_split_where_they_end(tmp_path_factory, lines, block):
    path = tmp_path_factory.mktemp("lines") / "x"
    path.write_bytes(b"".join(b"-" + line + b"\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "BLOCK", block)
        assert list(compression.read_lines(path)) == [b"-" + line for line in lines]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_batches_may_be_parsed_in_any_order_on_any_thread(tmp_path, name):
    path = write(tmp_path / name)
    raw = list(read_raw([path], ["text"], (0, 0), False, 3, None))
    with ThreadPoolExecutor(4) as pool:
        parsed = list(pool.map(lambda batch: batch.parse(), reversed(raw)))
    (expected, found) = list(read_batches([path], ["text"], most=3)), parsed[::-1]
    assert len(found) == len(expected) > 2 and {batch.file for batch in raw} == {0}
    for one, other in zip(found, expected, strict=True):
        assert (one.rows.tolist(), one.end, one.consumed) == (other.rows.tolist(), other.end, other.consumed)
        assert [one.texts["text"][i] for i in range(len(one.rows))] == [
            other.texts["text"][i] for i in range(len(other.rows))
        ]
