"""Verdicts from an annotation store for texts that do not come from its input files, but from a shard made
from them, perhaps in another order. They are matched by text."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.corpus.batch import SegmentBatch, TextBatch, ranges, segment_ends_in_chars, text_hashes
from megatron_srp.data.preprocess.stored_verdicts import StoredVerdicts
from megatron_srp.data.reflect import Source
from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import digest, file_fingerprint
from megatron_srp.schema import SafetyLabel, Verdict


class HashLabeler:
    """Labels from stored verdicts on the same text. Memory: 24 bytes for each document of the store.

    Fast where the texts are in about the store's order; for shuffled ones, parts are read repeatedly.

    Args:
        store: where the verdicts are.
        key: the JSON key of the texts in it.
        names: of the shards, for messages.
        max_words: of the requested segments.
        failed_as: the verdict for segments without one; None raises an error for such segments.
        hints: whether Safe labels get the store's hints.

    Raises:
        UsageError: when the store was made with another `max_words`, or has nothing under `key`.
    """

    def __init__(
        self,
        store: AnnotationStore,
        key: str,
        names: list[str],
        max_words: int,
        failed_as: Verdict | None = None,
        hints: bool = False,
    ) -> None:
        self._verdicts = StoredVerdicts(store, max_words, failed_as, hints)
        self._folder, self._names = store.folder, names
        self._paths = sorted((store.folder / key).glob("*/*.parquet"))
        if not self._paths:
            raise UsageError(f"{store.folder} has no verdicts for {key!r}; annotate the texts with `srp annotate`")
        self._verdicts.require_hints(f"the texts under {key!r}", self._paths)
        used = self._verdicts.files(self._paths)
        self._identity = digest([(str(path.relative_to(store.folder)), file_fingerprint(path)) for path in used])
        hashes = [_read_hashes(path) for path in self._paths]
        sizes = [len(part) for part in hashes]
        flat = np.concatenate(hashes)
        order = np.argsort(flat, kind="stable")
        self._hashes = flat[order]
        self._part = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._row = np.concatenate([np.arange(size) for size in sizes])[order]

    def identity(self, file: int, row: int) -> str:
        """As in `Labeler`, but of all verdicts and hints in the store: any of them may have been used."""
        return self._identity

    def __call__(
        self, source: Source, batch: TextBatch, segments: SegmentBatch
    ) -> tuple[np.ndarray, list[SafetyLabel]]:
        counts = np.diff(segments.offsets)
        texts = np.flatnonzero(counts)
        found = self._find(source, texts, text_hashes(batch)[texts])
        ends = segment_ends_in_chars(batch, segments)
        codes, labels = np.empty(len(segments), np.int64), dict[SafetyLabel, int]()
        for number in np.unique(self._part[found]).tolist():
            part = self._verdicts.read(self._paths[number])
            own = self._part[found] == number
            rows, mine = self._row[found[own]], texts[own]
            wanted = ranges(segments.offsets[mine], counts[mine])
            given = ranges(part.offsets[rows], counts[mine])
            same = np.array_equal(np.diff(part.offsets)[rows], counts[mine])
            if not same or not np.array_equal(part.ends[given], ends[wanted]):
                raise InputError(
                    f"{self._paths[number]}: was made for other segments of the same texts; annotate again"
                )
            path = self._paths[number]
            codes[wanted] = self._verdicts.codes(str(path), path, part, given, labels)
        return codes, list(labels)

    def _find(self, source: Source, texts: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Where in the store's sorted hashes each text is."""
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        missing = np.flatnonzero(self._hashes[at] != hashes)
        if len(missing):
            row = source.rows[texts[missing[0]]]
            raise InputError(
                f"{self._names[source.file]}, sequence {row}: {self._folder} has no verdicts for its text; "
                "annotate the texts the shard was made from, or use a --guard"
            )
        return at


def _read_hashes(path: object) -> np.ndarray:
    try:
        return pq.read_table(path, columns=["text_hash"]).column(0).to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path}: not a part of an annotation store, or damaged ({error})") from None
