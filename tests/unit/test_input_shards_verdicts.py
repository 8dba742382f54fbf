"""Verdicts of a store for shards that exist already: found by the text."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srp.cli.preprocess import main
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.data.preprocess.shard_pipeline import ShardJob
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.errors import SrpError, UsageError
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import KeywordGuard
from tests.helpers.plain_shards import TEXTS, build


@pytest.fixture
def annotated(tokenizer_models, tmp_path, write_jsonl, capsys):
    """A store of verdicts on TEXTS in two files."""
    from megatron_srp.annotation import load_guard
    from megatron_srp.annotation.corpus_job.annotator import Annotator
    from megatron_srp.annotation.store.store import AnnotationStore

    files = [write_jsonl(TEXTS[:30], "a.jsonl"), write_jsonl(TEXTS[30:], "b.jsonl")]
    guard = load_guard("heuristic")
    store = AnnotationStore.create(tmp_path / "store", {"guard": "heuristic", "revision": "1", "max_words": 8})
    Annotator(InputFiles(files), store, guard, 8, chunk_documents=10).run()
    return ["--store", str(store.folder), "--max-words", "8"]


@pytest.mark.parametrize("append_eod", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "sentencepiece"])
def test_verdicts_of_a_store_are_found_by_the_text(tokenizer_models, tmp_path, annotated, family, append_eod):
    """In whatever order the shard has the documents."""
    tokenizer = load_tokenizer(*tokenizer_models[family])
    texts = [*TEXTS]
    random.Random(0).shuffle(texts)
    plain = build(tmp_path / "plain", tokenizer, None, texts, append_eod=append_eod)
    for name, judge in (("stored", annotated), ("judged", ["--guard", "heuristic", "--max-words", "8"])):
        main([*judge, "--input-shards", str(plain), "--output-prefix", str(tmp_path / name)])
    sidecars = [ReflectionSidecar.load(tmp_path / f"{name}_plain_text_document.srp") for name in ("stored", "judged")]
    assert sidecars[0].fingerprint == sidecars[1].fingerprint
    assert len({entry.label.verdict for entry in sidecars[0].table.entries}) > 1


@pytest.mark.parametrize("kind", ["revision", "ensemble"])
def test_a_guard_that_changes_before_a_run_goes_on(tmp_path, tokenizer, monkeypatch, kind):
    monkeypatch.setattr("megatron_srp.data.preprocess.shard_blocks.BLOCK_TOKENS", 200)
    plain = build(tmp_path / "plain", tokenizer, None)
    file = tmp_path / "e.yaml"
    file.write_text("rule: majority\nguards: [{guard: heuristic}, {guard: heuristic, name: other}]\n")
    guard = "python:tests.conftest:KeywordGuard" if kind == "revision" else f"ensemble:{file}"
    argv = ["--guard", guard, "--max-words", "8", "--input-shards", str(plain), "--output-prefix", str(tmp_path / "o")]
    argv += ["--chunk-documents", "1", "--workers", "1"]

    def stop(job: ShardJob) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardJob, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            main(argv)
    monkeypatch.setattr(KeywordGuard, "revision", "2")
    file.write_text(file.read_text().replace("majority", "any-unsafe"))
    with pytest.raises(UsageError, match=r"other settings: guard_(revision|settings.rule) was"):
        main(argv)


def test_verdicts_that_change_before_a_run_goes_on(tmp_path, annotated, tokenizer, monkeypatch):
    monkeypatch.setattr("megatron_srp.data.preprocess.shard_blocks.BLOCK_TOKENS", 200)
    plain = build(tmp_path / "plain", tokenizer, None)
    flags = [*annotated, "--input-shards", str(plain), "--workers", "1", "--chunk-documents", "1", "--output-prefix"]
    main([*flags, str(tmp_path / "whole")])
    commit, commits = ShardJob._commit, []

    def stop_after_three(job: ShardJob, position: dict) -> None:
        commit(job, position)
        commits.append(position)
        if len(commits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ShardJob, "_commit", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        main([*flags, str(tmp_path / "o")])
    part = sorted((tmp_path / "store").rglob("*.parquet"))[-1]
    kept = part.read_bytes()
    table = pq.read_table(part)
    pq.write_table(table.set_column(5, "scores", pa.nulls(len(table), table["scores"].type)), part)
    with pytest.raises(UsageError, match="verdicts or hints in the annotation store are not those"):
        main([*flags, str(tmp_path / "o")])
    part.write_bytes(kept)
    main([*flags, str(tmp_path / "o")])
    sidecars = [ReflectionSidecar.load(tmp_path / f"{name}_plain_text_document.srp") for name in ("whole", "o")]
    assert sidecars[0].fingerprint == sidecars[1].fingerprint


def test_a_store_that_does_not_fit(tmp_path, annotated, tokenizer):
    plain = build(tmp_path / "plain", tokenizer, None, [*TEXTS[5:9], "A text that nobody judged."])
    argv = ["--input-shards", str(plain), "--output-prefix", str(tmp_path / "o")]
    for more, message in (
        ([], "sequence 4: .*store has no verdicts for its text"),
        (["--max-words", "9"], "holds verdicts for segments of 8 words"),
        (["--json-keys", "body"], "has no verdicts for 'body'"),
    ):
        with pytest.raises(SrpError, match=message):
            main([*annotated, *argv, *more])
