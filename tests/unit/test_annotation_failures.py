"""The annotator: what becomes of segments without a verdict, and of guards that break."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from megatron_srp.annotation import Guard
from megatron_srp.annotation.store.store import AnnotationStore, read_part
from megatron_srp.cli.annotate import main
from megatron_srp.corpus.batch import TextBatch, segment_batch
from megatron_srp.data.preprocess.labels_by_text import HashLabeler
from megatron_srp.data.reflect import Source
from megatron_srp.errors import GuardError, InputError, UsageError
from megatron_srp.schema import SafetyLabel, Verdict
from tests.helpers.corpus_files import write
from tests.helpers.moody_guard import MoodyGuard, annotate, contents, write_files
from tests.unit.test_annotation_store import preprocess


@pytest.fixture
def files(tmp_path, monkeypatch):
    return write_files(tmp_path, monkeypatch)


def test_failures_are_stored_counted_and_tried_again(files, tmp_path):
    annotate(tmp_path / "cured", files)
    job = annotate(tmp_path / "store", files, MoodyGuard())
    assert 0 < job.failures.failed < job.failures.segments == job.progress.segments
    assert set(job.failures.reasons) == {
        "nonsense: 'banana'",
        "the guard raised RuntimeError: CUDA error: out of windows",
    }
    assert len(job.failures.examples) == 10
    assert job.failures.examples[0].startswith(f"{files[0]}, row ")
    assert sum(job.progress.verdicts.values()) == job.progress.segments - job.failures.failed
    parts = [read_part(path) for path in (tmp_path / "store").rglob("*.parquet")]
    assert (
        sum(len(part.failures) for part in parts)
        == job.failures.failed
        == sum((part.codes < 0).sum() for part in parts)
    )

    again = MoodyGuard(cured=True)
    annotate(tmp_path / "store", files, again)
    assert not again.texts  # only on demand
    annotate(tmp_path / "store", files, again, retry_failed=True)
    assert len(again.texts) == job.failures.failed
    assert all("river" in text or "window" in text for text in again.texts)
    assert contents(tmp_path / "store") == contents(tmp_path / "cured")


def test_too_many_failures_stop_the_job_and_keep_its_parts(files, tmp_path):
    with pytest.raises(GuardError) as error:
        annotate(tmp_path / "store", files, MoodyGuard(), max_rate=0.001)
    assert "more than --max-failure-rate 0.001, the first: " in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(GuardError):  # a single one, when all is done
        annotate(tmp_path / "few", [write(tmp_path / "few.jsonl", ["On the river. The end."])], MoodyGuard(), 0.1)
    assert len(contents(tmp_path / "few")) == 1
    annotate(tmp_path / "few", [tmp_path / "few.jsonl"], MoodyGuard(), 0.1)  # nothing was judged now


class Broken(Guard):
    name, revision = "moody", "1"

    def __init__(self, verdicts=None):
        self.verdicts = verdicts

    def classify(self, texts):
        if self.verdicts is None:
            raise ZeroDivisionError("no such luck")
        return [SafetyLabel(Verdict.SAFE)] * self.verdicts


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        (Broken(), "guard moody failed on \\d+ texts in a row; the guard raised ZeroDivisionError: no such luck"),
        (Broken(1), "guard moody gave 1 verdicts for \\d+ texts; return a list with one SafetyLabel for each"),
    ],
)
def test_a_broken_guard_stops_at_once(guard, message, files, tmp_path):
    with pytest.raises(GuardError, match=message):
        annotate(tmp_path / "store", files, guard)
    assert not contents(tmp_path / "store")


def test_the_data_job_refuses_failed_segments_unless_told(files, tokenizer_models, tmp_path):
    annotate(tmp_path / "store", files, MoodyGuard())
    flags = ["--store", str(tmp_path / "store"), "--max-words", "10"]
    with pytest.raises(InputError, match=r"0\.jsonl, row \d+, segment \d+: the guard gave no verdict \("):
        preprocess(tokenizer_models, files, tmp_path / "o", *flags)
    preprocess(tokenizer_models, files, tmp_path / "o", *flags, "--failed-as", "unsafe", "--overwrite")
    manifest = json.loads((tmp_path / "o.srp.json").read_text())
    stored = [
        v
        for p in (tmp_path / "store").rglob("*.parquet")
        for row in pq.read_table(p)["verdicts"].to_pylist()
        for v in row
    ]
    assert manifest["counts"]["verdicts"]["Unsafe"] == stored.count("Unsafe") + stored.count(None) > 0
    assert manifest["settings"]["failed_as"] == "Unsafe"
    with pytest.raises(UsageError, match="--failed-as needs --store"):
        preprocess(tokenizer_models, files, tmp_path / "o", "--guard", "heuristic", "--failed-as", "Safe")


def test_the_report_names_what_has_no_verdict(tmp_path, capsys, write_jsonl, monkeypatch):
    monkeypatch.setattr("megatron_srp.cli.guard_flags.guard_from_args", lambda args: MoodyGuard())
    path = write_jsonl(["On the river. The end.", "It kills."])
    flags = ["--input", str(path), "--guard", "heuristic", "--store", str(tmp_path / "s")]
    with pytest.raises(GuardError, match="1 of 2 segments got no verdict"):
        main(flags)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"no verdict: {path}, row 1, segment 1: nonsense: 'banana'" in shown
    assert "1 segments of these files have no verdict in the store; retry them with --retry-failed" in shown
    with pytest.raises(InputError, match="not an annotation store"):
        AnnotationStore(tmp_path / "elsewhere")


def test_shards_of_the_texts_refuse_failed_segments_too(tmp_path):
    texts = ["On the river. The end.", "It kills by the river. So they say."]
    annotate(tmp_path / "store", [write(tmp_path / "a.jsonl", texts)], MoodyGuard())
    store = AnnotationStore(tmp_path / "store")
    batch = TextBatch.from_texts(texts[::-1])
    given = Source(0, np.arange(2)), batch, segment_batch(batch, 10)
    with pytest.raises(InputError, match=r"\.parquet, row \d, segment 1: the guard gave no verdict \(nonsense"):
        HashLabeler(store, "text", ["shard"], 10)(*given)
    codes, labels = HashLabeler(store, "text", ["shard"], 10, Verdict.CONTROVERSIAL)(*given)
    assert [labels[code].verdict for code in codes] == [Verdict.CONTROVERSIAL] * 2
