"""The verdicts of a store one by one: which text got which verdict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from megatron_srp.annotation.corpus_job.part_texts import read_documents
from megatron_srp.annotation.store.part import FAILED, Part, PartSummary, read_part
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.errors import UsageError
from megatron_srp.files import file_fingerprint
from megatron_srp.remote.remote_file import InputFile
from megatron_srp.schema import SafetyLabel, Verdict


@dataclass(frozen=True, slots=True)
class Corpus:
    """The verdicts of a store on one input file.

    Attributes:
        file: where the file is now; None where the user did not pass it.
    """

    store: AnnotationStore
    key: str
    fingerprint: str
    file: InputFile | None = None

    @property
    def name(self) -> str:
        return str(self.file) if self.file else self.fingerprint


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A segment's verdict.

    Attributes:
        row, segment: indices of the document in its file and of the segment in the document, both from 0.
        label: None where the guard returned none; `failure` says why.
        score: probability of the verdict, NaN where there is none.
        text: None where the file is not known.
    """

    corpus: Corpus
    row: int
    segment: int
    label: SafetyLabel | None
    score: float
    failure: str
    text: str | None

    def describe(self) -> str:
        """One line; rows and segments are counted from 1."""
        said = shown(self.label) if self.label else f"no verdict ({self.failure})"
        score = "" if isnan(self.score) else f" {self.score:.3f}"
        where = f"{self.corpus.name}, row {self.row + 1}, segment {self.segment + 1}"
        return f"{where}: {said}{score}"


def shown(label: SafetyLabel) -> str:
    """`Unsafe: Violent, PII`."""
    return f"{label.verdict}: {', '.join(label.categories)}" if label.categories else str(label.verdict)


def find_corpora(store: AnnotationStore, files: Sequence[InputFile] = (), key: str | None = None) -> list[Corpus]:
    """The input files of a store: `files`, or all that have verdicts.

    Raises:
        UsageError: for a key or a file without verdicts in the store.
    """
    known = [(k, fingerprint) for k, fingerprint in store.inputs() if key in (None, k)]
    if not known:
        raise UsageError(f"{store.folder} has no verdicts{f' for the key {key!r}' if key else ' yet'}")
    if not files:
        return [Corpus(store, *which) for which in known]
    found = []
    for file in files:
        of_file = [which for which in known if which[1] == file_fingerprint(file)]
        if not of_file:
            raise UsageError(f"{store.folder} has no verdicts for {file}; was the file changed since?")
        found += [Corpus(store, *which, file) for which in of_file]
    return found


def read_verdicts(
    corpus: Corpus, verdicts: Sequence[Verdict | None] = (), row: int | None = None
) -> Iterator[StoredVerdict]:
    """The verdicts on a file, in its order.

    Args:
        verdicts: only these, where None selects segments without a verdict; all by default.
        row: only this one, from 0.
    """
    for summary in corpus.store.summaries(corpus.key, corpus.fingerprint):
        if row is None or summary.first <= row < summary.end:
            part = read_part(summary.path)
            picked = _pick(part, verdicts, row)
            texts = _texts(corpus, summary, part, picked) if corpus.file and len(picked) else {}
            for i in picked.tolist():
                document, within = part.document_of(i)
                code = int(part.codes[i])
                label = None if code == FAILED else part.labels[code]
                score, failure = float(part.scores[i]), part.failures.get(i, "")
                yield StoredVerdict(corpus, int(part.rows[document]), within, label, score, failure, texts.get(i))


def _pick(part: Part, verdicts: Sequence[Verdict | None], row: int | None) -> np.ndarray:
    """int64[K] numbers of segments."""
    wanted = np.ones(len(part.codes), bool)
    if verdicts:
        # A failed segment's code, -1, selects the last entry.
        named = [label.verdict in verdicts for label in part.labels]
        wanted = np.array([*named, None in verdicts])[part.codes]
    if row is not None:
        rows = np.repeat(part.rows, np.diff(part.offsets))
        wanted = wanted & (rows == row)
    return np.flatnonzero(wanted)


def _texts(corpus: Corpus, summary: PartSummary, part: Part, picked: np.ndarray) -> dict[int, str]:
    assert corpus.file is not None
    wanted = set(picked.tolist())
    documents = read_documents(corpus.file, corpus.key, summary, part)
    return {d.first + i: text for d in documents for i, text in enumerate(d.segments) if d.first + i in wanted}
