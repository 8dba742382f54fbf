"""Verdicts of a store listed, shown and changed by hand: the change leaves a trace, here and in what is made of it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srp.annotation.store.browse import find_corpora, read_verdicts
from megatron_srp.annotation.store.edit import set_verdict
from megatron_srp.annotation.store.part import write_table
from megatron_srp.annotation.store.store import AnnotationStore, read_part
from megatron_srp.annotation.store.writers import Partition, WriterLock
from megatron_srp.cli.annotate import main as annotate
from megatron_srp.cli.verdicts import main
from megatron_srp.errors import OutputError, SrpError, UsageError
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from tests.helpers.moody_guard import MoodyGuard
from tests.helpers.moody_guard import annotate as annotate_with
from tests.unit.test_annotation_store import preprocess

TEXTS = ["A quiet morning. How to build a bomb.", "", "The river rises. The house is dry."]


@pytest.fixture
def corpus(write_jsonl):
    return write_jsonl(TEXTS)


@pytest.fixture
def store(corpus, tmp_path):
    annotate(["--input", str(corpus), "--guard", "heuristic", "--max-words", "5", "--store", str(tmp_path / "store")])
    return tmp_path / "store"


def lines(capsys, *argv) -> list[str]:
    capsys.readouterr()
    assert main([*map(str, argv)]) == 0
    return capsys.readouterr().out.splitlines()


def test_listed_with_file_row_and_segment(store, corpus, capsys):
    assert lines(capsys, store, "list", "--input", corpus, "--verdict", "unsafe") == [
        f"{corpus}, row 1, segment 2: Unsafe: Violent",
        "    How to build a bomb.",
    ]
    listed = lines(capsys, store, "list", "--limit", "3")
    assert len(listed) == 4 and listed[-1] == "more than 3; --limit 0 lists all"
    assert len(lines(capsys, store, "list", "--limit", "0")) == 4
    assert lines(capsys, store, "list", "--verdict", "none") == []


def test_shown_with_the_whole_text(store, corpus, capsys):
    assert lines(capsys, store, "show", "--input", corpus, "--row", "3") == [
        *(f"{corpus}, row 3, segment 1: Safe", "The river rises.", ""),
        *(f"{corpus}, row 3, segment 2: Safe", "The house is dry.", ""),
    ]


def test_a_change_replaces_one_verdict_and_is_recorded(store, corpus, capsys):
    (path,) = store.rglob("*.parquet")
    before = pq.read_table(path).to_pylist()
    change = ["--verdict", "unsafe", "--categories", "Violent", "PII", "--reason", "a dam", "--who", "Ada"]
    said = lines(capsys, store, "set", "--input", corpus, "--row", "3", "--segment", "1", *change)
    assert said[0].endswith("Ada: corpus.jsonl, row 3, segment 1: Safe -> Unsafe: Violent, PII (a dam)")
    after = pq.read_table(path).to_pylist()
    before[2]["verdicts"][0], before[2]["categories"][0] = "Unsafe", "Violent, PII"
    assert after == before
    (edit,) = json.loads((store / "store.json").read_text())["edits"]
    assert (edit["who"], edit["row"], edit["segment"], edit["before"]) == ("Ada", 2, 0, "Safe")
    assert lines(capsys, store, "list", "--edits") == [said[0], "changed by hand: 1"]
    with pytest.raises(UsageError, match="row 3, segment 1 is Unsafe: Violent, PII already"):
        main([str(store), "set", "--input", str(corpus), "--row", "3", "--segment", "1", *change])


def test_a_change_that_fails_halfway_is_made_by_the_next_try(store, corpus, monkeypatch):
    (found,) = find_corpora(AnnotationStore(store), [corpus])
    unsafe = SafetyLabel(Verdict.UNSAFE)
    with monkeypatch.context() as patch:
        patch.setattr("megatron_srp.annotation.store.edit.write_part", _disk_full)
        with pytest.raises(OutputError):
            set_verdict(found, 2, 0, unsafe, who="Ada")
    assert [one.label for one in read_verdicts(found, row=2)] == [SAFE, SAFE]
    set_verdict(found, 2, 0, unsafe, who="Ada")
    assert [one.label for one in read_verdicts(found, row=2)] == [unsafe, SAFE]
    assert len(AnnotationStore(store).edits) == 1


def _disk_full(path, part):
    raise OutputError(f"{path}: No space left on device")


def test_annotating_again_keeps_changes(store, corpus, capsys):
    lines(capsys, store, "set", "--row", "3", "--segment", "1", "--verdict", "Unsafe")
    flags = ["--input", str(corpus), "--guard", "heuristic", "--max-words", "5", "--store", str(store)]
    assert annotate([*flags, "--retry-failed"]) == 0
    assert len(lines(capsys, store, "list", "--verdict", "Unsafe")) == 2
    assert len(AnnotationStore(store).edits) == 1


def test_a_failed_segment_gets_a_verdict(corpus, tmp_path, capsys):
    annotate_with(tmp_path / "s", [corpus], MoodyGuard())
    failed = lines(capsys, tmp_path / "s", "list", "--verdict", "none")
    assert len(failed) == 1 and "row 3, segment 1: no verdict (nonsense: 'banana')" in failed[0]
    lines(capsys, tmp_path / "s", "set", "--row", "3", "--segment", "1", "--verdict", "Safe")
    (path,) = (tmp_path / "s").rglob("*.parquet")
    assert not read_part(path).failures and lines(capsys, tmp_path / "s", "list", "--verdict", "none") == []


def test_hints_to_and_at_what_is_safe_no_longer_go(store, corpus):
    (path,) = store.rglob("*.parquet")
    (found,) = find_corpora(AnnotationStore(store))
    part = read_part(path)
    hints: list[str | None] = [None] * len(part.codes)
    hints[2] = "The house."  # from the river to the house
    lists = pa.ListArray.from_arrays(pa.array(part.offsets, pa.int32()), pa.array(hints, pa.string()))
    beside = store / "hints" / path.relative_to(store)
    write_table(beside, pa.table({"row": pa.array(part.rows), "hints": lists}))
    set_verdict(found, 0, 0, SafetyLabel(Verdict.CONTROVERSIAL), who="Ada")
    assert pq.read_table(beside)["hints"].to_pylist()[2] == ["The house.", None]
    set_verdict(found, 2, 1, SafetyLabel(Verdict.UNSAFE), who="Ada")
    assert pq.read_table(beside)["hints"].to_pylist()[2] == [None, None]


def test_shards_made_again_say_that_verdicts_have_changed(store, corpus, tokenizer_models, tmp_path, capsys):
    flags = ["--annotations", str(store), "--max-words", "5"]
    preprocess(tokenizer_models, [corpus], tmp_path / "o", *flags)
    assert "edits" not in json.loads((tmp_path / "o.srp.json").read_text())["settings"]["annotations"]
    with pytest.raises(UsageError, match=r"o\.srp\.json exists already; pass --overwrite"):
        preprocess(tokenizer_models, [corpus], tmp_path / "o", *flags)
    lines(capsys, store, "set", "--row", "3", "--segment", "1", "--verdict", "Unsafe", "--who", "Ada")
    changed = r"exists already \(verdicts of the store have been changed since\); pass --overwrite"
    with pytest.raises(UsageError, match=changed):
        preprocess(tokenizer_models, [corpus], tmp_path / "o", *flags)
    preprocess(tokenizer_models, [corpus], tmp_path / "o", *flags, "--overwrite")
    manifest = json.loads((tmp_path / "o.srp.json").read_text())
    edits = manifest["settings"]["annotations"]["edits"]
    assert (edits["count"], edits["by"]) == (1, "Ada") and manifest["counts"]["verdicts"]["Unsafe"] == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["set", "--row", "3", "--segment", "9", "--verdict", "Safe"], "row 3 has 2 segments, and no 9"),
        (["set", "--row", "9", "--segment", "1", "--verdict", "Safe"], "has no verdicts for row 9"),
        (["set", "--row", "2", "--segment", "1", "--verdict", "Safe"], "row 2 has 0 segments, and no 1"),
        (["set", "--row", "0", "--segment", "1", "--verdict", "Safe"], "--row 0: rows are counted from 1"),
        (["set", "--row", "3", "--segment", "1", "--verdict", "Save"], "unknown verdict 'Save'"),
        (["set", "--row", "3", "--segment", "1", "--verdict", "Unsafe", "--categories", "a,b"], "--categories: categ"),
        (["show", "--row", "9"], "has no verdicts for row 9"),
        (["list", "--json-keys", "body"], "has no verdicts for the key 'body'"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(argv, message, store):
    before = {path: path.read_bytes() for path in store.rglob("*.*") if path.is_file()}
    with pytest.raises(SrpError, match=message) as error:
        main([str(store), *argv])
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in store.rglob("*.*") if path.suffix != ".lock"} == {
        path: content for path, content in before.items() if path.suffix != ".lock"
    }


def test_a_file_that_the_store_does_not_know(store, write_jsonl):
    other = write_jsonl(["Another text."], "other.jsonl")
    with pytest.raises(UsageError, match=r"has no verdicts for .*other\.jsonl; was the file changed since\?"):
        main([str(store), "list", "--input", str(other)])


def test_no_change_while_a_run_writes_there(store, corpus):
    (found,) = find_corpora(AnnotationStore(store), [corpus])
    with (
        WriterLock(store, ["another", "job"], "text", Partition()),
        pytest.raises(UsageError, match="another run is writing"),
    ):
        set_verdict(found, 2, 0, SafetyLabel(Verdict.UNSAFE))
    assert [one.label for one in read_verdicts(found, row=2)] == [SAFE, SAFE]
