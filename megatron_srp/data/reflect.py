"""From one batch of documents to shard contents: cut, classify, tokenize, align, interleave.

Every step works on flat arrays and releases the GIL, so that threads share the cores; a batch depends
only on its documents, so batches may be made in any order.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.classify_segments import label_segments
from megatron_srp.corpus.batch import SegmentBatch, TextBatch, ranges, segment_batch
from megatron_srp.corpus.contexts import contexts_of
from megatron_srp.data.align import align_batch
from megatron_srp.data.interleave import interleave_batch
from megatron_srp.data.policies.policy import Policy
from megatron_srp.data.policies.treat import PieceEncoder, TokenSegments, treat
from megatron_srp.data.reflection_table import HINTED, Entry, HintIds, Reflections, ReflectionTable
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel
from megatron_srp.tokenization import TextTokenizer, TokenBatch
from megatron_srp.tokenization.fast import FastEncoder

NO_CUTS = np.empty(0, np.int32), np.empty(0, np.uint16)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the N documents of a batch come from: index of the input file, int64[N] rows in it."""

    file: int
    rows: np.ndarray


class Labeler(Protocol):
    """Assigns labels to the S segments of a batch."""

    def __call__(
        self, source: Source, batch: TextBatch, segments: SegmentBatch
    ) -> tuple[np.ndarray, list[SafetyLabel]]:
        """int64[S] indices of labels, and the labels they refer to."""

    def identity(self, file: int, row: int) -> str:
        """A hash of the labels assigned before `row` of file number `file`: if a resumed run finds a different one,
        the labels have changed. Empty where labels are not stored, so that they cannot change."""


class GuardLabeler:
    """Labels from a guard."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    @property
    def settings(self) -> dict[str, Any]:
        """The guard's record for manifests; it differs for guards whose verdicts may differ."""
        own = {"guard": self.guard.name, "guard_revision": self.guard.revision}
        more = {name: value for name, value in self.guard.settings.items() if name not in ("guard", "revision")}
        return own | ({"guard_settings": more} if more else {})

    def identity(self, file: int, row: int) -> str:
        return ""

    def __call__(
        self, source: Source, batch: TextBatch, segments: SegmentBatch
    ) -> tuple[np.ndarray, list[SafetyLabel]]:
        words = self.guard.context_words
        contexts = contexts_of(batch, segments, words) if words else None
        return label_segments(self.guard, segments.texts(batch), contexts)


@dataclass(frozen=True, slots=True)
class ReflectedBatch:
    """N documents ready to be written.

    Attributes:
        tokens: their tokens with reflections, flat, of the shard's type.
        lengths: int32[N] tokens of each.
        plain_tokens: how many of the tokens are the documents' own or their end-of-document ids.
        cuts: int32[S] plain tokens before each reflection.
        entries: uint16[S] indices into `table`.
        counts: int32[N] reflections of each document.
        table: this batch's reflections.
        empty: documents skipped because they have no text or no tokens.
        hints: of the reflections; None where the form has none.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    plain_tokens: int
    cuts: np.ndarray
    entries: np.ndarray
    counts: np.ndarray
    table: ReflectionTable
    empty: int
    hints: HintIds | None = None

    @property
    def reflections(self) -> Reflections:
        return Reflections(self.cuts, self.entries, self.table, self.hints)


@dataclass(slots=True)
class EntryEncoder:
    """Table entries for labels, written as `form` says with the ids of `tokenizer`."""

    form: ReflectionFormat
    tokenizer: TextTokenizer
    _known: dict[tuple[SafetyLabel, bool], Entry] = field(default_factory=dict)

    def __call__(
        self, codes: np.ndarray, labels: list[SafetyLabel], before_eod: np.ndarray, table: ReflectionTable
    ) -> tuple[np.ndarray, HintIds | None]:
        """uint16[S], the entries of `table`, which may grow, for segments with labels[codes[s]]; and their hints.

        The reflections of segments `before_eod` have no end-of-text token of their own: one follows
        anyway, and a doubled one would train the model to end an empty document.
        """
        stops = [self.form.stops(label) for label in labels]

        def numbers(stops: list[bool]) -> np.ndarray:
            pairs = zip(labels, stops, strict=True)
            return np.array([table.add(self._entry(label, stop)) for label, stop in pairs], np.uint16)

        entries = numbers(stops)[codes]
        if len(before_eod):
            entries[before_eod] = numbers([False] * len(labels))[codes[before_eod]]
        return entries, self._hints(codes, labels) if self.form.hints else None

    def _hints(self, codes: np.ndarray, labels: list[SafetyLabel]) -> HintIds:
        resolved = [self.form.resolve(label) for label in labels]
        hinted = [i for i, label in enumerate(resolved) if label.hint]
        ids = self.tokenizer.encode_lists_inside([self.form.text_inside(resolved[i]) for i in hinted])
        sizes, starts = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
        sizes[hinted] = [len(row) for row in ids]
        starts[hinted] = np.cumsum(sizes[hinted]) - sizes[hinted]
        flat = np.array([i for row in ids for i in row], np.int32)
        offsets = np.concatenate([[0], np.cumsum(sizes[codes])])
        return HintIds(offsets, flat[ranges(starts[codes], sizes[codes])])

    def _entry(self, label: SafetyLabel, stop: bool) -> Entry:
        """The label's reflection; encoding it takes longer than inserting it a thousand times."""
        if label.hint and self.form.resolve(label).hint:
            return HINTED
        entry = self._known.get((label, stop))
        if entry is None:
            ids = self.form.encode(label, self.tokenizer, stop)
            entry = self._known[label, stop] = Entry(self.form.resolve(label), stop, tuple(ids))
        return entry


@dataclass(slots=True)
class Reflector:
    """Turns batches of text into batches of reflected tokens.

    Attributes:
        tokenizer, encoder: of the documents.
        policy: what becomes of their segments.
        written: the tokenizer that a model will be trained with, which encodes the reflections; it differs
            from `tokenizer` when `policy` adds tokens.
        labeler: labels the segments; None writes plain documents, without reflections.
        max_words: maximum words per segment.
        append_eod: whether each document ends with the tokenizer's end-of-document id.
    """

    tokenizer: TextTokenizer
    encoder: FastEncoder
    policy: Policy
    written: TextTokenizer
    labeler: Labeler | None
    max_words: int
    append_eod: bool
    dtype: np.dtype
    _entries: "EntryEncoder" = field(init=False)
    _pieces: PieceEncoder = field(init=False)

    def __post_init__(self) -> None:
        self._entries = EntryEncoder(self.policy.form, self.written)
        self._pieces = PieceEncoder(self.policy, self.written)

    def __call__(self, source: Source, batch: TextBatch) -> ReflectedBatch:
        source, batch, empty = _without(source, batch, np.diff(batch.offsets) == 0)
        tokens = self.encoder.encode_batch(batch)
        if not np.diff(tokens.offsets).all():  # a text of spaces, which the tokenizer drops
            source, batch, dropped = _without(source, batch, np.diff(tokens.offsets) == 0)
            tokens, empty = self.encoder.encode_batch(batch), empty + dropped
        table = ReflectionTable()
        (cuts, entries), hints = NO_CUTS, None
        offsets = np.zeros(len(batch) + 1, np.int64)
        eod = self.tokenizer.require_eos() if self.append_eod else None
        if self.labeler and not self.policy.is_srp:
            return self._treat(source, batch, tokens, empty)
        if self.labeler:
            segments = segment_batch(batch, self.max_words)
            offsets = segments.offsets
            cuts = align_batch(batch, segments, tokens, self.tokenizer)
            # Where the document has its own end-of-document id, its last reflection has none.
            last = segments.offsets[1:] - 1 if self.append_eod else np.empty(0, np.int64)
            entries, hints = self._entries(*self.labeler(source, batch, segments), last, table)
        out, lengths = interleave_batch(tokens, cuts, entries, offsets, table, eod, self.dtype, hints)
        plain = int(tokens.offsets[-1]) + len(batch) * self.append_eod
        counts = np.diff(offsets).astype(np.int32)
        return ReflectedBatch(
            tokens=out,
            lengths=lengths,
            plain_tokens=plain,
            cuts=cuts,
            entries=entries,
            counts=counts,
            table=table,
            empty=empty,
            hints=hints,
        )

    def _treat(self, source: Source, batch: TextBatch, tokens: TokenBatch, empty: int) -> ReflectedBatch:
        """The same for another policy than `srp`, which may act on end-of-document tokens too."""
        assert self.labeler is not None
        segments, table = segment_batch(batch, self.max_words), ReflectionTable()
        cuts = align_batch(batch, segments, tokens, self.tokenizer)
        plain = _with_eods(tokens, self.tokenizer.require_eos()) if self.append_eod else tokens
        begins, ends = plain.offsets[:-1], plain.offsets[1:]
        documents = np.repeat(begins, np.diff(segments.offsets))
        before_eod = np.full(len(batch), self.append_eod)
        spans = TokenSegments(plain.tokens, begins, before_eod, cuts + documents, segments.offsets, ends)
        pieces = treat(self._pieces, spans, *self.labeler(source, batch, segments), table)
        offsets = np.concatenate([[0], np.cumsum(pieces.counts, dtype=np.int64)])
        out, lengths = interleave_batch(plain, pieces.cuts, pieces.entries, offsets, table, None, self.dtype)
        return ReflectedBatch(
            tokens=out,
            lengths=lengths,
            plain_tokens=len(plain.tokens),
            cuts=pieces.cuts,
            entries=pieces.entries,
            counts=pieces.counts,
            table=table,
            empty=empty,
        )


def _with_eods(tokens: TokenBatch, eod: int) -> TokenBatch:
    """The documents, each with an end-of-document token."""
    offsets = tokens.offsets + np.arange(len(tokens.offsets))
    return TokenBatch(np.insert(tokens.tokens, tokens.offsets[1:], eod), offsets)


def _without(source: Source, batch: TextBatch, drop: np.ndarray) -> tuple[Source, TextBatch, int]:
    """The batch without the documents that `drop` bool[N] marks, and how many those were."""
    dropped = int(drop.sum())
    if not dropped:
        return source, batch, 0
    source = Source(source.file, source.rows[~drop])
    if not np.diff(batch.offsets)[drop].any():  # they have no text
        return source, TextBatch(batch.text, np.concatenate([[0], batch.offsets[1:][~drop]])), dropped
    return source, TextBatch.from_texts([batch[i] for i in np.flatnonzero(~drop).tolist()]), dropped
