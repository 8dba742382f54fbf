"""The verdicts of a store with their texts, to train a front on; whole documents are held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.cascade.bound import Target
from megatron_srp.annotation.corpus_job.part_texts import read_documents
from megatron_srp.annotation.store.browse import Corpus, find_corpora
from megatron_srp.annotation.store.part import FAILED, Part, read_part
from megatron_srp.annotation.store.settling import FRONT
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile

FEWEST = 20  # harmful segments, to train on and held out, below which neither training nor its measure mean anything
HELD_OUT, PLATT = 0.2, 0.1  # shares of the documents


@dataclass(frozen=True, slots=True)
class Examples:
    """N texts.

    Attributes:
        harmful: bool[N] by the store's verdicts.
        parts: uint8[N]: 0 for training, 1 for the two numbers that turn scores into probabilities, 2 held out.
    """

    texts: pa.LargeStringArray
    harmful: np.ndarray
    parts: np.ndarray

    def part(self, number: int) -> tuple[pa.LargeStringArray, np.ndarray]:
        rows = np.flatnonzero(self.parts == number)
        return self.texts.take(pa.array(rows)), self.harmful[rows]


def part_of(hashes: np.ndarray) -> np.ndarray:
    """uint8[N]: the part of documents with these hashes, so that equal documents are in the same one."""
    share = hashes.astype(np.float64) / 2**64
    return np.where(share < HELD_OUT, 2, np.where(share < HELD_OUT + PLATT, 1, 0)).astype(np.uint8)


def read_examples(store: AnnotationStore, files: Sequence[InputFile], key: str, of: str, most: int) -> Examples:
    """About `most` segments of the store, of documents chosen by their hash.

    Args:
        of: what is harmful, as in `Target`.

    Raises:
        UsageError: where the store has no verdicts on a file.
        InputError: where too few segments are harmful.
    """
    corpora = find_corpora(store, files, key)
    total = sum(len(part.codes) for corpus in corpora for part in _parts(corpus))
    kept = min(1.0, most / max(total, 1))
    found = [one for corpus in corpora for one in _document_examples(corpus, Target(of=of), kept)]
    texts = pa.array([text for texts, _, _ in found for text in texts], pa.large_string())
    harmful = np.concatenate([np.empty(0, bool), *(harmful for _, harmful, _ in found)])
    examples = Examples(texts, harmful, np.concatenate([np.empty(0, np.uint8), *(part for *_, part in found)]))
    check_enough(examples, str(store.folder))
    return examples


def check_enough(examples: Examples, source: str) -> None:
    """Raises InputError where too few segments are harmful, or too few are not."""
    for number, name in ((0, "to train on"), (2, "held out")):
        harmful = examples.harmful[examples.parts == number]
        for what, count in (("harmful", int(harmful.sum())), ("harmless", int((~harmful).sum()))):
            if count < FEWEST:
                raise InputError(
                    f"{source}: {count} {what} segments {name}, and a front takes at least {FEWEST}; annotate more of "
                    "the corpus, or a part of it with more such texts"
                )


def _parts(corpus: Corpus) -> Iterator[Part]:
    for summary in corpus.store.summaries(corpus.key, corpus.fingerprint):
        yield read_part(summary.path)


def _document_examples(
    corpus: Corpus, target: Target, kept: float
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    assert corpus.file is not None
    for summary in corpus.store.summaries(corpus.key, corpus.fingerprint):
        part = read_part(summary.path)
        harmful = np.array([*(target.counts(label.verdict) for label in part.labels), False])[part.codes]
        known = part.codes != FAILED
        if part.settling is not None:  # what a front settled teaches only what that front knows
            known &= ~np.char.endswith(part.settling.stages, FRONT)
        numbers = part_of(part.hashes)
        # The lowest bits choose the documents, and the highest their part.
        chosen = (part.hashes & np.uint64(0xFFFFFFFF)).astype(np.float64) < kept * 2**32
        for document in read_documents(corpus.file, corpus.key, summary, part):
            if chosen[document.number]:
                rows = document.first + np.flatnonzero(known[document.first : document.first + len(document.segments)])
                texts = [document.segments[row - document.first] for row in rows.tolist()]
                yield texts, harmful[rows], np.full(len(rows), numbers[document.number], np.uint8)
