"""Files with anything in them: an error of ours or a correct result, never a traceback, a hang or a crash.

The readers run in a process of their own (tests/helpers/fuzzing.py). `make test` tries a few hundred files of each
kind; `make test-all` tries many thousand.
"""

import bz2
import gzip
import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.corpus_files import write
from tests.helpers.fuzzing import fuzzed
from tests.unit.test_annotation_store import SETTINGS, annotate

LINES = [{"id": i, "text": text} for i, text in enumerate(random_texts(81, 30, most_words=30))]


@pytest.fixture(scope="module")
def read():
    yield from fuzzed()


def quick_and_long(examples: int, many: int = 2_000):
    """Runs a test on `examples` files in `make test`, and again on `many` in `make test-all`."""
    rules: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    budgets = [
        pytest.param(settings(max_examples=examples, **rules), id="quick"),
        pytest.param(settings(max_examples=many, **rules), id="long", marks=pytest.mark.exhaustive),
    ]
    return pytest.mark.parametrize("budget", budgets)


def run(budget: settings, strategy, body) -> None:
    budget(given(strategy)(body))()


# Damage: bits flipped, bytes put in, cut out or written over, at places given as a share of the file.
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.tuples(st.just("flip"), st.integers(0, 7)),
            st.tuples(st.sampled_from(["over", "in"]), st.binary(min_size=1, max_size=9)),
            st.tuples(st.just("cut"), st.integers(1, 200)),
            st.tuples(st.just("end"), st.none()),
        ),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, edits: list) -> bytes:
    content = bytearray(data)
    for where, (kind, what) in edits:
        at = int(where * len(content))
        if kind == "flip" and content:
            content[at] ^= 1 << what
        elif kind in ("over", "in"):
            content[at : at + len(what) * (kind == "over")] = what
        elif kind == "cut":
            del content[at : at + what]
        elif kind == "end":
            del content[at:]
    return bytes(content)


def jsonl(lines: list) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def compressed(kind: str) -> bytes:
    """Two members or frames, as `cat` and parallel compressors make them."""
    halves = jsonl(LINES[:15]), jsonl(LINES[15:])
    compressors: dict[str, Any] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    if compress := compressors.get(kind):
        return b"".join(compress(half) for half in halves)
    if kind == "zst":
        return b"".join(map(zstandard.ZstdCompressor(write_checksum=True).compress, halves))
    return b"".join(halves)


@quick_and_long(120)
@pytest.mark.parametrize("kind", ["plain", "gz", "zst", "bz2", "xz"])
def test_damaged_json_lines(kind, budget, read, tmp_path):
    path, whole = tmp_path / "x.jsonl", compressed(kind)
    path.write_bytes(whole)
    texts = read("read_corpus", path)["result"]
    assert [text for _, text in texts] == [line["text"] for line in LINES]

    def body(edits: list) -> None:
        path.write_bytes(damaged(whole, edits))
        answer = read("read_corpus", path)
        assert "result" in answer or str(path) in answer["error"]
        if kind != "plain" and "result" in answer:  # there are checksums, so nothing is invented
            assert {text for _, text in answer["result"]} <= {text for _, text in texts}

    run(budget, EDITS, body)


PIECES = st.sampled_from(
    [
        b'"',
        b"\\",
        b"\\u",
        b"\\ud800",
        b"\\udc00",
        b"\\ud83d\\ude00",
        b"\\u0000",
        b"\0",
        b"\x7f",
        b"\x1f",
        b"\\/",
        b"\\b",
        b"\\x",
    ]
    + [
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x80\xa8",
        b"\xef\xbb\xbf",
        "ü😀½".encode(),
        b"\r",
        b"\t",
    ]
    + [b"1e999", b"-0", b"123456789012345678901234567890", b"0123", b"NaN", b"Infinity", b"null", b"true", b"1.5e-400"]
    + [b"[" * 200, b"]" * 200, b'{"a":' * 1100 + b"1" + b"}" * 1100, b"[" * 100_000]
    + [
        b"{",
        b"}",
        b",",
        b":",
        b" ",
        b'"text"',
        b'"text":',
        b'"text": "a"',
        b'"te\\u0078t": "b"',
        b'"id": 1',
        b"x" * 5000,
    ]
)
JSON_LINE = st.one_of(
    st.lists(PIECES, max_size=8).map(b"".join),
    st.lists(PIECES, max_size=4).map(lambda pieces: b'{"text": "' + b"".join(pieces) + b'"}'),
    st.lists(PIECES, max_size=4).map(lambda pieces: b'{"x": ' + b"".join(pieces) + b', "text": "a\\n\\u00e9"}'),
    st.lists(
        st.sampled_from([b'"text": "a"', b'"text": "b"', b'"text": 1', b'"te\\u0078t": "c"', b'"x": {"text": "d"}']),
        max_size=4,
    ).map(lambda pairs: b"{" + b", ".join(pairs) + b"}"),
    st.dictionaries(
        st.sampled_from(["text", "x"]),
        st.recursive(st.none() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)),
    ).map(lambda record: json.dumps(record).encode()),
    st.text().map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)


def meanings(line: bytes) -> set[str | None]:
    """The texts that a line may be read as, None where it may be refused: what orjson says, or, where orjson
    refuses it (NaN, numbers beyond its range, lone surrogates, deep nesting), also what Python's parser says."""

    def text(loads) -> str | None:
        try:
            record = loads(line)
            found = record.get("text") if isinstance(record, dict) else None
            return found.encode().decode() if isinstance(found, str) else None
        except (ValueError, RecursionError):
            return None

    strict = text(orjson.loads)
    pythons = text(lambda data: json.loads(data.decode("utf-8", "surrogateescape")))
    return {strict} if strict is not None else {None, pythons}


def is_odd_but_pythons(line: bytes) -> bool:
    """Whether orjson refuses the line and Python finds a text in it, which must then not be lost."""
    (first, *rest) = sorted(meanings(line), key=lambda text: text is not None)
    return first is None and bool(rest)


@quick_and_long(400, 10_000)
def test_lines_mean_what_json_says(budget, read, tmp_path):
    path = tmp_path / "x.jsonl"

    def body(drawn: tuple) -> None:
        lines, mark, end = drawn
        first = (
            b'{"text": "first"}'  # a file of bad lines alone is refused, and so is one that begins like another kind
        )
        content = mark + end.join(line.replace(b"\n", b" ") for line in [first, *lines])
        path.write_bytes(content)
        found = dict(read("read_corpus", path)["result"])
        for row, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n")):
            assert found.get(row) in meanings(line), line[:200]
            assert row in found or not is_odd_but_pythons(line), line[:200]

    marks, ends = st.sampled_from([b"", b"\xef\xbb\xbf"]), st.sampled_from([b"\n", b"\r\n", b"\n\n"])
    run(budget, st.tuples(st.lists(JSON_LINE, max_size=6), marks, ends), body)


def parquets(folder: Path) -> dict[str, bytes]:
    """Parquet files of the kinds that writers make, and of kinds that have no text."""
    texts = [str(line["text"]) for line in LINES]
    tables = {
        "plain": pa.table({"text": texts, "id": range(30)}),
        "large": pa.table({"text": pa.array(texts, pa.large_string())}),
        "dictionary": pa.table({"text": pa.array(texts[:3] * 10).dictionary_encode()}),
        "nulls": pa.table({"text": [*texts[:10], None, *texts[11:20], None, None]}),
        "empty": pa.table({"text": pa.array([], pa.string())}),
        "nested": pa.table({"text": [[text] for text in texts]}),
        "struct": pa.table({"text": [{"text": text} for text in texts]}),
        "numbers": pa.table({"text": range(30)}),
        "binary": pa.table({"text": [text.encode() for text in texts]}),
        "twice": pa.Table.from_arrays([pa.array(texts), pa.array(texts)], ["text", "text"]),
    }
    files = {}
    for name, table in tables.items():
        for compression in ("snappy", "none", "zstd"):
            path = folder / "x.parquet"
            with pq.ParquetWriter(path, table.schema, compression=compression) as writer:
                for i in range(0, max(len(table), 1), 10):
                    writer.write_table(table.slice(i, 10))
                    writer.write_table(table.slice(0, 0))
            files[f"{name}-{compression}"] = path.read_bytes()
    return files


@quick_and_long(400, 10_000)
def test_damaged_parquet(budget, read, tmp_path):
    path, files = tmp_path / "x.parquet", parquets(tmp_path)

    def body(drawn: tuple) -> None:
        name, edits = drawn
        path.write_bytes(damaged(files[name], edits))
        answer = read("read_corpus", path)
        assert "result" in answer or str(path) in answer["error"]

    for name, data in files.items():
        path.write_bytes(data)
        answer = read("read_corpus", path)
        assert ("error" in answer) == (name.split("-")[0] in ("nested", "struct", "numbers", "binary", "twice")), (
            name,
            answer,
        )
    body(("plain-snappy", [(0.822265625, ("flip", 0))]))  # a row group said to have less than no rows
    run(budget, st.tuples(st.sampled_from(sorted(files)), EDITS), body)


@pytest.fixture(scope="module")
def shards(tokenizer_models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    builder = ReflectionIndexedDatasetBuilder(folder / "c", tokenizer, guard=KeywordGuard(), max_words=8)
    builder.add_documents(random_texts(82, 12, most_words=40))
    builder.finalize()
    return folder


@quick_and_long(150)
@pytest.mark.parametrize("name", ["c_text_document.bin", "c_text_document.idx", "c_text_document.srp", "c.srp.json"])
def test_damaged_shards(name, budget, read, shards, tmp_path):
    for path in shards.iterdir():
        shutil.copy(path, tmp_path)
    path, whole = tmp_path / name, (shards / name).read_bytes()
    prefix = tmp_path / "c_text_document"
    assert read("verify", tmp_path / "c") == {"result": []}
    tokens = read("read_shard", prefix)["result"]
    stripped = Path(read("strip", tmp_path / "c")["result"] + "_text_document.bin")
    plain = stripped.read_bytes()

    def body(edits: list) -> None:
        path.write_bytes(data := damaged(whole, edits))
        answer = read("verify", tmp_path / "c")
        if data == whole:
            assert answer == {"result": []}
        elif not name.endswith("json"):
            assert answer["result"], "damage that was not found"
        read("read_manifest", tmp_path / "c.srp.json")
        read("read_sidecar", tmp_path / "c_text_document.srp")
        answer = read("read_shard", prefix)
        if name.endswith(("json", "srp")):
            assert answer == {"result": tokens}
        if "result" in read("strip", tmp_path / "c") and name.endswith("idx"):
            assert len(stripped.read_bytes()) == len(plain)

    run(budget, EDITS, body)


@quick_and_long(300, 5_000)
def test_damaged_annotation_stores(budget, read, tmp_path):
    source = write(tmp_path / "a.jsonl", random_texts(83, 40, most_words=40))
    annotate(tmp_path / "store", [source])
    path = max((tmp_path / "store").rglob("*.parquet"))
    header, whole = tmp_path / "store" / "store.json", path.read_bytes()
    start = header.read_bytes()
    assert read("read_part", path)["result"] and read("read_store", tmp_path / "store") == {"result": SETTINGS}
    assert AnnotationStore(tmp_path / "store").settings == SETTINGS

    def body(edits: list) -> None:
        path.write_bytes(damaged(whole, edits))
        read("read_part", path)
        header.write_bytes(damaged(start, edits))
        read("read_store", tmp_path / "store")

    run(budget, EDITS, body)
