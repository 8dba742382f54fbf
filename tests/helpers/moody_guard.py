"""A guard that may fail, and jobs that judge with it."""

from pathlib import Path

import pytest

from megatron_srp.annotation import Guard, GuardResult
from megatron_srp.annotation.corpus_job.annotator import Annotator
from megatron_srp.annotation.corpus_job.failures import FailureLog
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.corpus.input_files import InputFiles
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.corpus_files import write

SETTINGS = {"guard": "moody", "revision": "1", "max_words": 10}


class MoodyGuard(Guard):
    """Scores by the text's length; no verdict where it says river, an exception where it says window."""

    name, revision = "moody", "1"

    def __init__(self, cured: bool = False) -> None:
        self.cured = cured
        self.texts: list[str] = []

    def classify(self, texts):
        return [one.label for one in self.results(texts)]

    def results(self, texts):
        if not self.cured and any("window" in text for text in texts):
            raise RuntimeError("CUDA error:\n out of windows")
        self.texts += texts
        return [self._one(text) for text in texts]

    def _one(self, text):
        if "river" in text and not self.cured:
            return GuardResult(failure="nonsense: 'banana'")
        return GuardResult(KeywordGuard.label_of(text), 1 / (1 + len(text)))


def annotate(folder, files, guard=None, max_rate=1.0, retry_failed=False, partition=None, **settings) -> Annotator:
    store = AnnotationStore.create(folder, SETTINGS)
    guard = guard or MoodyGuard(cured=True)
    job = Annotator(
        InputFiles(files, partition), store, guard, 10, chunk_documents=20, failures=FailureLog(max_rate), **settings
    )
    job.run(retry_failed)
    return job


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*.parquet")}


def write_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three files of texts, in three formats, that are read in several batches."""
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 7000)
    texts = [*random_texts(61, 80, most_words=60), "", "You kill. It is done."]
    return [write(folder / f"{i}{suffix}", texts[i:]) for i, suffix in enumerate((".jsonl", ".parquet", ".jsonl.zst"))]
