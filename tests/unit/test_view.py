"""The view against the definition, on random shards, sidecars and parts of sequences."""

import contextlib
import dataclasses
import multiprocessing
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_srp.data import _tokens
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.interleave import interleave_document, treat_document
from megatron_srp.data.reflection_table import Entry, ReflectionTable
from megatron_srp.data.shards.indexed_shard import IndexedShard, write_index
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.view import SUM_EVERY, ReflectedIndexedDataset
from megatron_srp.errors import InputError
from megatron_srp.schema import SafetyLabel, Verdict
from tests.conftest import ANY_SPEED, KeywordGuard, random_texts

SIZES = [3, 1, 7, 0]
UNSAFE = SafetyLabel(Verdict.UNSAFE)
TREATED = ReflectionTable(  # everything that a policy may do with a segment
    [
        Entry(UNSAFE, False, tuple(range(after)), False, tuple(range(100, 100 + before)), text, learned)
        for text in ("keep", "drop", "mask")
        for learned in (True, False)
        for before, after in ((0, 0), (0, 3), (2, 0), (1, 4))
    ]
)
DTYPES = ["uint8", "int8", "int16", "int32", "int64", "uint16"]


def table(largest_id: int = 120) -> ReflectionTable:
    labels = [SafetyLabel(Verdict.UNSAFE, (f"c{i}",)) for i in range(len(SIZES))]
    ids = (tuple(range(largest_id - n + 1, largest_id + 1)) for n in SIZES)
    return ReflectionTable([Entry(label, False, own) for label, own in zip(labels, ids, strict=True)])


def write(folder: Path, rows, dtype="uint16", reflections: ReflectionTable | None = None) -> tuple[Path, Path]:
    """A shard and its sidecar of rows (tokens, cuts, entries); returns their paths."""
    folder.mkdir(exist_ok=True)
    np.array([t for tokens, *_ in rows for t in tokens], dtype).tofile(folder / "s.bin")
    with (folder / "s.idx").open("wb") as file:
        write_index(file, np.array([len(tokens) for tokens, *_ in rows], np.int32), np.dtype(dtype))
    offsets = np.cumsum([0, *(len(cuts) for _, cuts, _ in rows)], dtype=np.int64)
    cuts = np.array([cut for _, cuts, _ in rows for cut in cuts], np.int32)
    entries = np.array([entry for *_, entries in rows for entry in entries], np.uint16)
    sidecar = ReflectionSidecar(offsets, cuts, entries, reflections or table(), False)
    sidecar.save(folder / "s.srp")
    return folder / "s", folder / "s.srp"


def defined(row, reflections: ReflectionTable | None = None) -> list[int]:
    tokens, cuts, entries = row
    return interleave_document(tokens, cuts, [(reflections or table()).entries[i].ids for i in entries])


@st.composite
def sequences(draw):
    tokens = draw(st.lists(st.integers(0, 100), max_size=40))
    cuts = sorted(draw(st.lists(st.integers(0, len(tokens)), max_size=8)))
    return tokens, cuts, draw(st.lists(st.integers(0, len(SIZES) - 1), min_size=len(cuts), max_size=len(cuts)))


@settings(max_examples=150, deadline=None, suppress_health_check=[*ANY_SPEED, HealthCheck.function_scoped_fixture])
@given(st.lists(sequences(), min_size=1, max_size=6), st.sampled_from(DTYPES), st.data())
def test_any_part_is_as_defined(tmp_path, rows, dtype, data):
    view = ReflectedIndexedDataset(*write(tmp_path / "s", rows, dtype))
    assert len(view) == len(rows)
    for i, row in enumerate(rows):
        expected = defined(row)
        assert view.sequence_lengths[i] == len(expected)
        assert view[i].tolist() == view.get(i).tolist() == expected
        offset = data.draw(st.integers(0, len(expected)))
        length = data.draw(st.integers(0, len(expected) - offset))
        part = view.get(np.int32(i), offset=offset, length=np.int32(length))
        assert part.dtype == dtype
        assert part.tolist() == expected[offset : offset + length]
    assert [row.tolist() for row in view[:]] == [defined(row) for row in rows]
    assert view[-1].tolist() == defined(rows[-1])


@st.composite
def treated_sequences(draw):
    tokens = draw(st.lists(st.integers(0, 100), max_size=30))
    cuts = sorted(draw(st.lists(st.integers(0, len(tokens)), max_size=8)))
    entries = st.integers(0, len(TREATED) - 1)
    return tokens, cuts, draw(st.lists(entries, min_size=len(cuts), max_size=len(cuts)))


@settings(max_examples=150, deadline=None, suppress_health_check=[*ANY_SPEED, HealthCheck.function_scoped_fixture])
@given(st.lists(treated_sequences(), min_size=1, max_size=6), st.data())
def test_any_part_of_a_treated_sequence_and_its_mask_are_as_defined(tmp_path, rows, data):
    view = ReflectedIndexedDataset(*write(tmp_path / "s", rows, "uint16", TREATED))
    assert view.masks
    for i, (tokens, cuts, entries) in enumerate(rows):
        expected, learned = treat_document(tokens, cuts, [TREATED.entries[k] for k in entries])
        assert view.sequence_lengths[i] == len(expected)
        assert (view[i].tolist(), view.mask(i).tolist()) == (expected, learned)
        offset = data.draw(st.integers(0, len(expected)))
        length = data.draw(st.integers(0, len(expected) - offset))
        assert view.get(i, offset, length).tolist() == expected[offset : offset + length]
        assert view.mask(i, offset, length).tolist() == learned[offset : offset + length]


def test_long_treated_documents_by_their_running_sums(tmp_path):
    rows = long_rows(4, len(TREATED))
    view = ReflectedIndexedDataset(*write(tmp_path, rows, "uint16", TREATED))
    rng = random.Random(1)
    for i, (tokens, cuts, entries) in enumerate(rows):
        expected, learned = treat_document(tokens, cuts, [TREATED.entries[k] for k in entries])
        for _ in range(300):
            offset = rng.randrange(len(expected))
            length = min(rng.randrange(60), len(expected) - offset)
            assert view.get(i, offset, length).tolist() == expected[offset : offset + length]
            assert view.mask(i, offset, length).tolist() == learned[offset : offset + length]


def long_rows(seed: int = 0, kinds: int = len(SIZES)):
    """Sequences whose reflections go far over one running sum, with empty ones between."""
    rng = random.Random(seed)
    rows = []
    for num_cuts in (0, 3, 5 * SUM_EVERY, 0, SUM_EVERY - 3, SUM_EVERY, 1, 2 * SUM_EVERY + 1):
        tokens = [rng.randrange(100) for _ in range(num_cuts * 3 + 5)]
        cuts = sorted(rng.choices(range(len(tokens) + 1), k=num_cuts))
        rows.append((tokens, cuts, rng.choices(range(kinds), k=num_cuts)))
    return rows


def test_long_documents_by_their_running_sums(tmp_path):
    rows = long_rows()
    view = ReflectedIndexedDataset(*write(tmp_path, rows))
    rng = random.Random(1)
    for i, row in enumerate(rows):
        expected = defined(row)
        for _ in range(300):
            offset = rng.randrange(len(expected))
            length = min(rng.randrange(60), len(expected) - offset)
            assert view.get(i, offset, length).tolist() == expected[offset : offset + length]


def test_ids_too_large_for_the_plain_shard(tmp_path):
    wide = table(70_000)
    rows = long_rows(2)
    view = ReflectedIndexedDataset(*write(tmp_path, rows, "uint16", wide))
    assert view.dtype == np.int32
    for i, row in enumerate(rows):
        assert view.get(i, 2).tolist() == defined(row, wide)[2:]


def test_only_the_part_asked_for_is_read(tmp_path):
    """A megabyte of a document changed on disk is not seen by a read of another part."""
    rows = [(list(range(100)) * 5000, [10, 250_000, 499_990], [0, 1, 2])]
    prefix, sidecar = write(tmp_path, rows)
    view = ReflectedIndexedDataset(prefix, sidecar)
    expected = defined(rows[0])
    tokens = np.memmap(f"{prefix}.bin", np.uint16, "r+")
    tokens[1000:200_000] = 7
    assert view.get(0, 250_000, 50).tolist() == expected[250_000:250_050]
    assert (view.get(0, 1100, 50) == 7).all()


@pytest.mark.parametrize("offset, length", [(-1, 2), (0, 10**6), (5, -1), (10**6, None)])
def test_what_a_sequence_does_not_have(tmp_path, offset, length):
    view = ReflectedIndexedDataset(*write(tmp_path, long_rows()))
    with pytest.raises(IndexError):
        view.get(1, offset, length)
    with pytest.raises(IndexError):
        view.get(len(view))
    with pytest.raises(ValueError, match="contiguous"):
        view[::2]


def test_files_that_do_not_belong_together(tmp_path):
    prefix, _ = write(tmp_path / "a", long_rows())
    _, other = write(tmp_path / "b", long_rows()[1:])
    with pytest.raises(InputError, match="has 7 sequences"):
        ReflectedIndexedDataset(prefix, other)
    loaded = ReflectionSidecar.load(tmp_path / "a" / "s.srp")
    for change, error in (
        ({"materialized": True}, "in the shard's tokens already"),
        ({"entries": np.full_like(loaded.entries, 9)}, "damaged"),
        ({"offsets": np.concatenate([[0, 9**5], loaded.offsets[2:]])}, "damaged"),
    ):
        dataclasses.replace(loaded, **change).save(tmp_path / "x.srp")
        with pytest.raises(InputError, match=error):
            ReflectedIndexedDataset(prefix, tmp_path / "x.srp")
    for cuts in (loaded.cuts + 10**6, -loaded.cuts - 1, loaded.cuts[::-1].copy()):
        dataclasses.replace(loaded, cuts=cuts).save(tmp_path / "x.srp")
        view = ReflectedIndexedDataset(prefix, tmp_path / "x.srp")
        with pytest.raises(InputError, match="cuts in sequence 2 do not fit"):
            view.get(2)


@settings(max_examples=150, deadline=None, suppress_health_check=[*ANY_SPEED, HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["s.idx", "s.srp"]), st.data())
def test_damage_is_an_error_of_ours_or_none(tmp_path, name, data):
    """Bytes changed, cut off or added: never a crash, and no other exception."""
    prefix, sidecar = write(tmp_path / "d", long_rows(3)[:4])
    content = bytearray((tmp_path / "d" / name).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    (tmp_path / "d" / name).write_bytes(content[:end] + data.draw(st.binary(max_size=9)))
    with contextlib.suppress(InputError):
        for row in ReflectedIndexedDataset(prefix, sidecar)[:]:
            assert row.dtype.kind in "iu"


def test_lengths_do_not_overflow():
    lengths, sums = np.array([2**31 - 3], np.int32), np.empty(1, np.int64)
    table_offsets = np.array([0, 0, 2, 2, 4], np.int64)
    at, cuts, entries = np.array([0, 1], np.int64), np.array([0], np.int32), np.array([1], np.uint16)
    none: Any = b""
    _tokens.reflected_lengths(at, cuts, entries, table_offsets, none, none, lengths, sums)
    assert lengths[0] == 2**31 - 1
    with pytest.raises(ValueError, match="reflected_lengths"):
        _tokens.reflected_lengths(at, cuts, entries, table_offsets, none, none, lengths, sums)


def test_the_kernel_refuses_what_does_not_fit():
    tokens, out = np.arange(10, dtype=np.uint16), np.empty(4, np.uint16)
    cuts, entries = np.array([5], np.int32), np.array([0], np.uint16)
    none: Any = b""  # flags, hints
    ids, offsets, sums = np.array([90, 91], np.uint16), np.array([0, 0, 2], np.int64), np.zeros(1, np.int64)

    def read(first=0, count=10, begin=0, end=1, offset=4, item_size=2):
        own = first, count, cuts, entries, begin, end, ids, offsets, none, none, none, sums
        _tokens.read_reflected(tokens, *own, offset, item_size, out)

    read()
    assert out.tolist() == [4, 90, 91, 5]
    wrong = [("first", 1), ("first", -1), ("count", -1), ("begin", -1), ("begin", 2), ("end", 2), ("offset", 9)]
    for name, value in [*wrong, ("offset", -1), ("item_size", 0), ("item_size", 8), ("item_size", 9)]:
        with pytest.raises(ValueError, match="read_reflected"):
            read(**{name: value})


def _read_all(view: ReflectedIndexedDataset) -> list[list[int]]:
    return [row.tolist() for row in view[:]]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forked with threads about, as by torch
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_goes_to_another_process_as_paths(tmp_path, method):
    rows = long_rows()
    view = ReflectedIndexedDataset(*write(tmp_path, rows))
    assert len(pickle.dumps(view)) < 500
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_read_all, (view,)) == [defined(row) for row in rows]


@pytest.mark.parametrize("append_eod", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "sentencepiece"])
def test_plain_shard_and_sidecar_are_the_builders_reflected_shard(tokenizer_models, tmp_path, family, append_eod):
    from megatron_srp.tokenization import load_tokenizer

    tokenizer = load_tokenizer(*tokenizer_models[family])
    for name, guard in (("plain", None), ("reflected", KeywordGuard())):
        builder = ReflectionIndexedDatasetBuilder(
            tmp_path / name, tokenizer, guard=guard, max_words=9, append_eod=append_eod
        )
        builder.add_documents(random_texts(5, 60))
        builder.finalize()
    built = IndexedShard(tmp_path / "reflected_text_document")
    sidecar = ReflectionSidecar.load(tmp_path / "reflected_text_document.srp")
    dataclasses.replace(sidecar, materialized=False).save(tmp_path / "s.srp")
    view = ReflectedIndexedDataset(tmp_path / "plain_text_document", tmp_path / "s.srp")
    assert view.dtype == built.dtype
    assert np.concatenate(view[:]).tobytes() == built.tokens.tobytes()
    assert np.array_equal(view.sequence_lengths, built.lengths)
