"""Hints from the store to the shard and back: the builder, the view, strip, merge, verify and inspect."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srp.annotation.store.hints import FOLDER, is_hint
from megatron_srp.cli import preprocess as preprocess_cli
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.merge import merge_shards
from megatron_srp.data.shards.parts import find_parts
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.data.verify.shards import verify_shards
from megatron_srp.errors import InputError, UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.reports.shard_report import inspect_shard, open_shard
from megatron_srp.tokenization import load_tokenizer
from tests.helpers.hinted import MAX_WORDS, TEXTS, make_hinted_corpus
from tests.helpers.killing import kill_and_resume


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_hinted_corpus(tmp_path_factory.mktemp("hinted"))


@pytest.fixture
def flags(corpus, tokenizer_models):
    kind, model = tokenizer_models["gpt2"]

    def make(output: Path | None, *more: str, hints: bool = True, store: Path | None = None) -> list[str]:
        files = ["--input", str(corpus / "a.jsonl"), str(corpus / "b.jsonl"), "--max-words", MAX_WORDS]
        tokenizer = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod"]
        judge = ["--store", str(store or corpus / "store"), *["--hints"] * hints]
        where = ["--output-prefix", str(output)] if output else []
        return [*files, *tokenizer, *judge, *where, *more]

    return make


def stored(corpus: Path) -> list[list[str | None]]:
    """The hints of all documents, in the order of the files."""
    names = {}
    for path in sorted((corpus / "store" / FOLDER).rglob("*.parquet")):
        rows = pq.read_table(path).to_pylist()
        names[len(rows)] = [row["hints"] for row in rows]
    return [row for texts in TEXTS for row in names[len(texts)] if row]


def content(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}_text_document.{kind}").read_bytes() for kind in ("bin", "idx", "srp")]


@pytest.mark.parametrize("form", ["text", "special"])
@pytest.mark.parametrize("family", ["gpt2", "sentencepiece"])
def test_every_hint_stands_where_it_was_written_for(corpus, flags, tokenizer_models, tmp_path, family, form, capsys):
    kind, model = tokenizer_models[family]
    more = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--reflection-tokens", form]
    assert preprocess_cli.main(flags(tmp_path / "out", *more)) == 0
    manifest = json.loads((tmp_path / "out.srp.json").read_text())
    written = [hint for row in stored(corpus) for hint in row if hint]
    assert len(written) > 50 and manifest["counts"]["hints"] == manifest["shards"][0]["hints"] == len(written)
    assert f"with a hint {len(written)}" in " ".join(capsys.readouterr().out.split())
    assert manifest["reflection"]["hints"] is True and manifest["settings"]["hints"]["model"] == "writer"

    shard = IndexedShard(tmp_path / "out_text_document")
    tokenizer = load_tokenizer(kind, Path(manifest["tokenizer"]["model"]))
    sidecar = ReflectionSidecar.load(tmp_path / "out_text_document.srp")
    read = ReflectionFormat(hints=True, special_tokens=form == "special")
    hints = []
    for i in range(len(sidecar)):
        reflections = sidecar.reflections(i, i + 1)
        ids = np.split(reflections.ids(), np.cumsum(reflections.sizes())[:-1])
        labels = [read.parse(tokenizer.decode([t for t in r.tolist() if t != tokenizer.eos_id]).strip()) for r in ids]
        entries = [sidecar.table.entries[number] for number in reflections.entries]
        assert [label.verdict for label in labels] == [entry.label.verdict for entry in entries]
        hints.append([label.hint or None for label in labels])
        text = tokenizer.decode(shard[i].tolist())
        assert [label.hint for _, _, label in read.find(text)] == [label.hint for label in labels]
    assert hints == stored(corpus)
    assert not verify_shards(tmp_path / "out").findings.lines()


def test_strip_and_view_are_the_plain_and_the_reflected_shard(flags, tmp_path, tokenizer_models):
    preprocess_cli.main(flags(tmp_path / "hinted", "--reflection-tokens", "special"))
    plain = flags(tmp_path / "plain", hints=False)
    at = plain.index("--store")
    preprocess_cli.main([*plain[:at], "--guard", "none", *plain[at + 2 :]])
    strip_reflections(tmp_path / "hinted", tmp_path / "stripped")
    for kind in ("bin", "idx"):
        a, b = (tmp_path / f"{name}_text_document.{kind}" for name in ("stripped", "plain"))
        assert a.read_bytes() == b.read_bytes()
    assert "hints" not in json.loads((tmp_path / "stripped.srp.json").read_text())["counts"]

    sidecar = ReflectionSidecar.load(tmp_path / "hinted_text_document.srp")
    dataclasses.replace(sidecar, materialized=False).save(tmp_path / "s.srp")
    view = ReflectedIndexedDataset(tmp_path / "plain_text_document", tmp_path / "s.srp")
    built = IndexedShard(tmp_path / "hinted_text_document")
    assert np.array_equal(view.sequence_lengths, built.lengths) and view.dtype == built.dtype
    rng = random.Random(3)
    for i in range(len(view)):
        whole = built[i]
        assert np.array_equal(view.get(i), whole)
        for _ in range(20):
            begin = rng.randrange(len(whole))
            end = rng.randrange(begin, len(whole) + 1)
            assert np.array_equal(view.get(i, begin, end - begin), whole[begin:end])


@pytest.mark.parametrize("tokens", ["text", "special"])
def test_a_sidecar_for_a_plain_shard_is_read_as_the_shard_that_it_would_make(corpus, flags, tmp_path, tokens):
    preprocess_cli.main(flags(tmp_path / "hinted", "--reflection-tokens", tokens))
    plain = flags(tmp_path / "plain", hints=False)
    at = plain.index("--store")
    preprocess_cli.main([*plain[:at], "--guard", "none", *plain[at + 2 :]])
    shards = ["--input-shards", str(tmp_path / "plain_text_document"), "--max-words", MAX_WORDS]
    judge = ["--store", str(corpus / "store"), "--hints", "--reflection-tokens", tokens]
    preprocess_cli.main([*shards, *judge, "--output-prefix", str(tmp_path / "view")])
    view = ReflectedIndexedDataset(tmp_path / "plain_text_document", tmp_path / "view_plain_text_document.srp")
    built = IndexedShard(tmp_path / "hinted_text_document")
    assert np.concatenate(view[:]).tobytes() == built.tokens.tobytes()
    assert not verify_shards(tmp_path / "view").findings.lines()
    preprocess_cli.main([*shards, *judge, "--materialize", "--output-prefix", str(tmp_path / "new")])
    assert IndexedShard(tmp_path / "new_plain_text_document").tokens.tobytes() == built.tokens.tobytes()


def test_partitions_and_chunks_make_the_same_bytes(flags, tmp_path):
    preprocess_cli.main(flags(tmp_path / "whole"))
    preprocess_cli.main(flags(tmp_path / "chunks", "--chunk-documents", "7", "--workers", "3"))
    assert content(tmp_path / "chunks") == content(tmp_path / "whole")
    for index in "01":
        preprocess_cli.main(flags(tmp_path / "parts", "--num-partitions", "2", "--partition-index", index))
    merged = merge_shards(find_parts([tmp_path / "parts"]), tmp_path / "merged")
    assert content(tmp_path / "merged") == content(tmp_path / "whole")
    assert merged["counts"]["hints"] == json.loads((tmp_path / "whole.srp.json").read_text())["counts"]["hints"]
    preprocess_cli.main(flags(tmp_path / "other", hints=False))
    with pytest.raises(UsageError, match=r"reflection.hints"):
        merge_shards(find_parts([tmp_path / "whole", tmp_path / "other"]), tmp_path / "mixed")


def test_killed_at_random_moments_and_resumed(flags, tmp_path):
    assert kill_and_resume(flags(None, "--chunk-documents", "9"), tmp_path, kills=3, seed=5)["results compared"] > 0


def test_verify_finds_a_damaged_hint(flags, tmp_path):
    preprocess_cli.main(flags(tmp_path / "out"))
    path = tmp_path / "out_text_document.srp"
    sidecar = ReflectionSidecar.load(path)
    row = int(np.flatnonzero(sidecar.hints.sizes())[7])
    sequence = int(np.searchsorted(sidecar.offsets, row, "right")) - 1
    ids = sidecar.hints.ids.copy()
    ids[sidecar.hints.offsets[row] + 3] ^= 1
    hints = dataclasses.replace(sidecar.hints, ids=ids)
    whole = path.read_bytes()
    damaged = tmp_path / "damaged.srp"  # the sound one is mapped
    dataclasses.replace(sidecar, hints=hints).save(damaged)
    damaged.replace(path)
    found = "\n".join(verify_shards(tmp_path / "out").findings.lines())
    assert f"sequence {sequence} does not hold <think> Safe </think>, with its hint," in found, found
    sizes = sidecar.hints.offsets.copy()
    sizes[row + 1 :] = np.maximum(sizes[row + 1 :], sizes[-1])  # its hint takes all that follow
    dataclasses.replace(sidecar, hints=dataclasses.replace(sidecar.hints, offsets=sizes)).save(damaged)
    damaged.replace(path)
    assert "with the ids of a hint" in "\n".join(verify_shards(tmp_path / "out", quick=True).findings.lines())
    with pytest.raises(InputError, match="do the two files belong together"):
        strip_reflections(tmp_path / "out", tmp_path / "stripped")
    damaged.write_bytes(whole)
    damaged.replace(path)
    assert not verify_shards(tmp_path / "out").findings.lines()


def test_inspect_counts_and_shows_hints(flags, tmp_path, corpus):
    preprocess_cli.main(flags(tmp_path / "out"))
    statistics, shown = inspect_shard(open_shard(tmp_path / "out"), 100, 0)
    written = [hint for row in stored(corpus) for hint in row if hint]
    assert shown["hints"] == len(written) and statistics.verdicts()["Safe"] >= len(written)
    reflections = [piece["reflection"] for document in shown["sample"] for piece in document["pieces"]]
    assert {f"<think> Safe {hint} </think>" for hint in written} <= set(reflections)


def edit(corpus: Path, folder: Path, change) -> Path:
    """A copy of the store in which `change` was made to the hints on the second file (lists of a row each)."""
    store = shutil.copytree(corpus / "store", folder / "store")
    (path,) = [p for p in sorted((store / FOLDER).rglob("*.parquet")) if pq.read_metadata(p).num_rows == len(TEXTS[1])]
    rows = pq.read_table(path).to_pylist()
    change(rows)
    lists = pa.array([row["hints"] for row in rows], pa.list_(pa.string()))
    pq.write_table(pa.table({"row": pa.array([row["row"] for row in rows], pa.int64()), "hints": lists}), path)
    return store


def test_hints_for_other_text_are_refused_and_the_document_named(corpus, flags, tmp_path):
    def longer(rows):
        rows[4]["hints"] = [*rows[4]["hints"], None]

    def moved(rows):  # onto the last segment of a document, behind which none follows
        rows[6]["hints"][-1] = "A hint"

    for number, (change, row) in enumerate([(longer, 5), (moved, 7), (lambda rows: rows.pop(), 32)]):
        store = edit(corpus, tmp_path / str(number), change)
        with pytest.raises(InputError, match=rf"b.jsonl, row {row}: its hints were written for other segments"):
            preprocess_cli.main(flags(tmp_path / f"out{number}", store=store))
        assert not list(tmp_path.glob(f"out{number}*.srp.json"))


def test_what_is_no_hint_is_written_in_the_plain_form(corpus, flags, tmp_path):
    bad = iter(["w " * 15 + "w", "  ", "a <b>", "", "two\nlines"])
    changed = []

    def spoil(rows):
        for row in rows:
            for i, hint in enumerate(row["hints"]):
                if hint and len(changed) < 5:
                    row["hints"][i] = next(bad)
                    changed.append(hint)

    store = edit(corpus, tmp_path, spoil)
    preprocess_cli.main(flags(tmp_path / "out", store=store))
    whole = sum(1 for row in stored(corpus) for hint in row if hint)
    assert len(changed) == 5
    assert json.loads((tmp_path / "out.srp.json").read_text())["counts"]["hints"] == whole - 5
    assert not any(map(is_hint, ("w " * 15 + "w", " a", "", "<", "a\nb"))) and is_hint("w " * 14 + "w")


def test_a_store_without_all_its_hints_is_refused(corpus, flags, tmp_path):
    store = shutil.copytree(corpus / "store", tmp_path / "store")
    sorted((store / FOLDER).rglob("*.parquet"))[0].unlink()
    with pytest.raises(UsageError, match=r"has no hints for all of [ab].jsonl; finish `srp hints` first"):
        preprocess_cli.main(flags(tmp_path / "out", store=store))
    shutil.rmtree(store / FOLDER)
    with pytest.raises(UsageError, match=r"has no hints; write them with `srp hints`"):
        preprocess_cli.main(flags(tmp_path / "out", store=store))
    given = flags(tmp_path / "out")
    at = given.index("--store")
    with pytest.raises(UsageError, match="--hints needs --store"):
        preprocess_cli.main([*given[:at], "--guard", "heuristic", *given[at + 2 :]])
