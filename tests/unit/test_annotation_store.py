import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from megatron_srp.annotation.corpus_job.annotator import Annotator
from megatron_srp.annotation.store.part import read_part
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.cli.preprocess import main
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import file_fingerprint
from megatron_srp.segmentation import segment_text
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.corpus_files import write

TEXTS = [*random_texts(51, 120), "", "You kill. It is done."]
SETTINGS = {"guard": "keyword", "revision": "1", "max_words": 10}


def annotate(folder, files, **settings):
    store = AnnotationStore.create(folder, SETTINGS)
    job = Annotator(InputFiles(files), store, KeywordGuard(), 10, chunk_documents=25, **settings)
    job.run()
    return job


def preprocess(tokenizer_models, files, prefix, *extra):
    kind, model = tokenizer_models["gpt2"]
    flags = [
        "--tokenizer-type",
        kind,
        "--tokenizer-model",
        str(model),
        "--append-eod",
        "--output-prefix",
        str(prefix),
    ]
    return main(["--input", *map(str, files), *flags, *extra])


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 7000)
    return [write(tmp_path / name, TEXTS) for name in ("a.jsonl.zst", "b.parquet")]


def test_verdicts_from_the_store_give_the_shards_of_the_guard(files, tokenizer_models, tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_srp.annotation.load_guard", lambda name, options=None, also=(): KeywordGuard())
    annotate(tmp_path / "store", files)
    preprocess(tokenizer_models, files, tmp_path / "s", "--store", str(tmp_path / "store"), "--max-words", "10")
    preprocess(tokenizer_models, files, tmp_path / "g", "--guard", "heuristic", "--max-words", "10")
    for suffix in ("bin", "idx", "srp"):
        paths = [tmp_path / f"{name}_text_document.{suffix}" for name in "sg"]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_part_of_several_row_groups_is_read_whole(files, tmp_path):
    """Each group has a dictionary of its own, with the verdicts in another order."""
    annotate(tmp_path / "store", files)
    part = next((tmp_path / "store" / "text").rglob("*.parquet"))
    whole = read_part(part)
    pq.write_table(pq.read_table(part), part, row_group_size=1)
    cut = read_part(part)
    assert [whole.labels[code] for code in whole.codes] == [cut.labels[code] for code in cut.codes]
    assert len(whole.labels) > 1 and np.array_equal(whole.ends, cut.ends)


def test_parts_are_plain_parquet_without_the_text(files, tmp_path):
    annotate(tmp_path / "store", files)
    folder = tmp_path / "store" / "text" / file_fingerprint(files[0])
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["row"] for row in rows] == list(range(len(TEXTS)))
    for row, text in zip(rows, TEXTS, strict=True):
        segments = segment_text(text, 10)
        assert row["ends"] == [s.end for s in segments]
        labels = [KeywordGuard.label_of(text[s.start : s.end]) for s in segments]
        assert row["verdicts"] == [str(label.verdict) for label in labels]
        assert row["categories"] == [", ".join(label.categories) for label in labels]
        assert row["scores"] == [None] * len(segments)
    assert set(rows[0]) == {"row", "text_hash", "ends", "verdicts", "categories", "scores", "failures"}


def test_finished_parts_are_not_judged_again(files, tmp_path):
    assert annotate(tmp_path / "store", files).progress.documents == 2 * len(TEXTS)
    folder = tmp_path / "store" / "text" / file_fingerprint(files[0])
    last = sorted(folder.glob("*.parquet"))[-1]
    kept = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*.parquet")}
    lost = pq.read_table(last).num_rows
    last.unlink()
    assert annotate(tmp_path / "store", files).progress.documents == lost
    assert {path: path.read_bytes() for path in (tmp_path / "store").rglob("*.parquet")} == kept
    assert annotate(tmp_path / "store", files).progress.documents == 0


def test_verdicts_for_other_text_are_refused(files, tokenizer_models, tmp_path):
    annotate(tmp_path / "store", files)
    flags = ("--store", str(tmp_path / "store"), "--max-words")
    with pytest.raises(UsageError, match="pass --max-words 10"):
        preprocess(tokenizer_models, files, tmp_path / "o", *flags, "20")
    changed = write(tmp_path / "c.jsonl", [*TEXTS[:-1], "You kill. It was done."])
    with pytest.raises(UsageError, match=r"no verdicts for 'text' of c\.jsonl; was the file changed"):
        preprocess(tokenizer_models, [changed], tmp_path / "o", *flags, "10")
    # The same file name and fingerprint, but another text: a forged or damaged store.
    folder = tmp_path / "store" / "text"
    (folder / file_fingerprint(files[0])).rename(folder / file_fingerprint(changed))
    with pytest.raises(InputError, match=rf"c\.jsonl, row {len(TEXTS)}: its text or segments are not those"):
        preprocess(tokenizer_models, [changed], tmp_path / "o", *flags, "10")


def test_missing_verdicts_name_the_first_document(files, tokenizer_models, tmp_path):
    annotate(tmp_path / "store", files[:1])
    sorted((tmp_path / "store" / "text" / file_fingerprint(files[0])).glob("*.parquet"))[-1].unlink()
    with pytest.raises(InputError, match=r"row \d+: the annotation store has no verdicts for it"):
        preprocess(
            tokenizer_models,
            files[:1],
            tmp_path / "o",
            "--store",
            str(tmp_path / "store"),
            "--max-words",
            "10",
        )


def test_other_settings_need_another_store(tmp_path):
    AnnotationStore.create(tmp_path / "store", SETTINGS)
    with pytest.raises(UsageError, match="max_words was 10, now 20"):
        AnnotationStore.create(tmp_path / "store", SETTINGS | {"max_words": 20})
    (tmp_path / "store" / "store.json").write_text(json.dumps({"version": 99, "settings": {}}))
    with pytest.raises(InputError, match="store version 99"):
        AnnotationStore(tmp_path / "store")
