"""Apply a policy to the segments of tokenized texts: where to cut, and the table entry for each cut.

A segment becomes one piece, or several where something is written inside it, or where it reaches over the end of a
sequence. What is random depends only on the seed and the text's tokens, so the builder and the view agree.

    T tokens of N texts with S segments, in R sequences; P pieces
"""

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from megatron_srp.corpus.batch import ranges
from megatron_srp.data.policies.policy import KEEP, Policy, Rule
from megatron_srp.data.reflection_table import Entry, ReflectionTable
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.tokenization import TextTokenizer

_SEED = 0x9E3779B97F4A7C15
_VERDICTS = list(Verdict)  # from Safe to the worst
_UNTOUCHED = len(_VERDICTS)  # the rule of a segment that stays as it is
_SPLIT, _TAGGED, _LAST = 0, 1, 2  # why a piece ends


@dataclass(frozen=True, slots=True)
class TokenSegments:
    """Attributes:
    tokens: [T].
    begins: int64[N], the first token of each text.
    before_eod: bool[N], whether an end-of-document token follows the text.
    ends: int64[S], how many of the T tokens are before the end of each segment.
    offsets: int64[N+1], which segments belong to each text.
    row_ends: int64[R], how many tokens are before the end of each sequence.
    """

    tokens: np.ndarray
    begins: np.ndarray
    before_eod: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray
    row_ends: np.ndarray

    def starts(self) -> np.ndarray:
        """int64[S]: the first token of each segment."""
        starts = np.concatenate([[0], self.ends[:-1]])[: len(self.ends)]
        some = np.diff(self.offsets) > 0
        starts[self.offsets[:-1][some]] = self.begins[some]
        return starts

    def texts(self) -> np.ndarray:
        """int64[S]: the text of each segment."""
        return np.repeat(np.arange(len(self.begins)), np.diff(self.offsets))


@dataclass(frozen=True, slots=True)
class Pieces:
    """Attributes:
    cuts: int32[P], tokens of the sequence before the end of each piece.
    entries: uint16[P], indices into the table.
    counts: int32[R], pieces of each sequence.
    """

    cuts: np.ndarray
    entries: np.ndarray
    counts: np.ndarray


def by_sequence(cuts: np.ndarray, row_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts in T tokens as cuts in their sequences, int32, and how many each has, int32[R].

    A cut between two sequences belongs to the first: a reflection is about the text before it.
    """
    rows = np.searchsorted(row_ends, cuts, "left")
    starts = np.concatenate([[0], row_ends])
    return (cuts - starts[rows]).astype(np.int32), np.bincount(rows, minlength=len(row_ends)).astype(np.int32)


@dataclass(slots=True)
class PieceEncoder:
    """Table entries for the pieces of segments, with the ids of `tokenizer`."""

    policy: Policy
    tokenizer: TextTokenizer
    _known: dict[tuple, Entry] = field(default_factory=dict)

    def __call__(
        self, label: SafetyLabel, rule: int, first: bool, why: int, before_eod: bool, table: ReflectionTable
    ) -> int:
        """The number in `table`, which may grow, of a piece of a segment with this label.

        Args:
            rule: index of the verdict that decides, or `_UNTOUCHED`.
            first: whether the segment begins with it.
            why: why it ends.
        """
        key = label, rule, first, why, before_eod
        if key not in self._known:
            own = KEEP if rule == _UNTOUCHED else self.policy.rule(_VERDICTS[rule])
            self._known[key] = self.entry(label, own, first, why, before_eod)
        return table.add(self._known[key])

    def entry(self, label: SafetyLabel, rule: Rule, first: bool, why: int, before_eod: bool) -> Entry:
        """The entry of a piece."""
        form, label = self.policy.form, self.policy.form.resolve(label)
        stop = why == _LAST and rule.reflect and form.stops(label) and not before_eod
        ids: list[int] = []
        if why == _LAST and rule.reflect:
            ids = form.encode(label, self.tokenizer, stop)
        elif why != _SPLIT:
            ids = self._mark(rule.after if why == _LAST else rule.inside)
        before = self._mark(rule.before if first else "")
        learned = rule.learned or not (ids or before)
        return Entry(label, stop, tuple(ids), False, tuple(before), rule.text, learned, why != _LAST)

    def _mark(self, text: str) -> list[int]:
        if not text:
            return []
        return self.tokenizer.encode_inside(text if self.policy.form.special_tokens else f" {text}")

    def possible(self, label: SafetyLabel) -> set[Entry]:
        """All entries that a segment with this label can have."""
        rules = [KEEP, *self.policy.rules.values()]
        cases = product(rules, (False, True), (_SPLIT, _TAGGED, _LAST), (False, True))
        return {self.entry(label, *case) for case in cases}


def treat(
    encoder: PieceEncoder, of: TokenSegments, codes: np.ndarray, labels: list[SafetyLabel], table: ReflectionTable
) -> Pieces:
    """The pieces of S segments.

    Args:
        codes: int64[S], the label of each segment: an index into `labels`.
        table: receives the entries.
    """
    policy, starts = encoder.policy, of.starts()
    rule = _deciding(policy, of, codes, labels)
    rule = np.where(_chosen(policy, of, starts, rule), _UNTOUCHED, rule)
    ends = _with_their_eod(policy, of, rule)
    inside = _places_inside(policy, of, starts, rule)
    splits = _splits(policy, of, starts, ends, rule)
    gaps = _gaps(policy, of, starts, rule)
    return _assemble(encoder, of, ends, rule, codes, labels, table, inside, splits, gaps)


def _deciding(policy: Policy, of: TokenSegments, codes: np.ndarray, labels: list[SafetyLabel]) -> np.ndarray:
    """int64[S]: index of the verdict that decides what happens to each segment."""
    severity = np.array([_VERDICTS.index(policy.form.resolve(label).verdict) for label in labels], np.int64)
    rule = severity[codes] if len(codes) else np.empty(0, np.int64)
    counts = np.diff(of.offsets)
    if policy.by == "document" and len(rule):
        worst = np.maximum.reduceat(rule, of.offsets[:-1][counts > 0])
        rule = np.repeat(worst, counts[counts > 0])
    return rule


def _of_rules(policy: Policy, value: str) -> np.ndarray:
    """A field of the rules, by index of the verdict."""
    return np.array([getattr(rule, value) for rule in (*map(policy.rule, _VERDICTS), KEEP)])


def _acts_on_text(policy: Policy) -> np.ndarray:
    """Which rules change more of a segment than its end, by index of the verdict."""
    return (_of_rules(policy, "text") != "keep") | (_of_rules(policy, "before") != "")


def _chosen(policy: Policy, of: TokenSegments, starts: np.ndarray, rule: np.ndarray) -> np.ndarray:
    """bool[S]: the segments that are chosen at random to stay as they are."""
    share = _of_rules(policy, "untagged")[rule]
    if not share.any():
        return np.zeros(len(rule), bool)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(of.tokens, np.zeros(1, np.int64)))])
    firsts = (starts - of.begins[of.texts()]).astype(np.uint64)
    return _uniform(_mixed(sums[of.ends] - sums[starts], firsts)) < share


def _places_inside(
    policy: Policy, of: TokenSegments, starts: np.ndarray, rule: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Random places within segments, and their segments."""
    rate = _of_rules(policy, "rate")[rule]
    own = np.flatnonzero(rate > 0)
    sizes = of.ends[own] - starts[own]
    segments, places = np.repeat(own, sizes), ranges(starts[own], sizes)
    firsts = of.begins[of.texts()[segments]]
    drawn = _uniform(_mixed(of.tokens[places], places - firsts)) < rate[segments]
    drawn &= places > starts[segments]
    return places[drawn], segments[drawn]


def _with_their_eod(policy: Policy, of: TokenSegments, rule: np.ndarray) -> np.ndarray:
    """int64[S]: the ends of the segments; a text of which nothing is left takes its end-of-document token along."""
    gone = np.array([own.text == "drop" and not own.writes for own in (*map(policy.rule, _VERDICTS), KEEP)])[rule]
    ends, some = of.ends.copy(), np.diff(of.offsets) > 0
    if gone.any():
        nothing_left = np.logical_and.reduceat(gone, of.offsets[:-1][some])
        ends[of.offsets[1:][some] - 1] += nothing_left & of.before_eod[some]
    return ends


def _splits(
    policy: Policy, of: TokenSegments, starts: np.ndarray, ends: np.ndarray, rule: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of sequences within segments of which more than the end is changed, and these segments."""
    treated = np.flatnonzero(_acts_on_text(policy)[rule])
    low = np.searchsorted(of.row_ends, starts[treated], "right")
    sizes = np.maximum(np.searchsorted(of.row_ends, ends[treated], "left") - low, 0)
    return of.row_ends[ranges(low, sizes)], np.repeat(treated, sizes)


def _gaps(policy: Policy, of: TokenSegments, starts: np.ndarray, rule: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Beginnings of texts that follow another in their sequence: what is between the two stays as it is."""
    firsts = of.offsets[:-1][np.diff(of.offsets) > 0]
    begins = np.concatenate([[0], of.row_ends])
    firsts = firsts[_acts_on_text(policy)[rule[firsts]] & ~np.isin(starts[firsts], begins)]
    return starts[firsts], firsts


def _assemble(
    encoder: PieceEncoder,
    of: TokenSegments,
    ends: np.ndarray,
    rule: np.ndarray,
    codes: np.ndarray,
    labels: list[SafetyLabel],
    table: ReflectionTable,
    inside: tuple[np.ndarray, np.ndarray],
    splits: tuple[np.ndarray, np.ndarray],
    gaps: tuple[np.ndarray, np.ndarray],
) -> Pieces:
    """All cuts in order, and the entry of each."""
    own = np.arange(len(ends))
    cuts = np.concatenate([gaps[0], splits[0], inside[0], ends])
    segments = np.concatenate([gaps[1], splits[1], inside[1], own]).astype(np.int64)
    why = np.repeat([_SPLIT, _SPLIT, _TAGGED, _LAST], [len(gaps[0]), len(splits[0]), len(inside[0]), len(own)])
    is_gap = np.arange(len(cuts)) < len(gaps[0])
    order = np.lexsort((why, ~is_gap, cuts, segments))
    cuts, segments, why, is_gap = cuts[order], segments[order], why[order], is_gap[order]
    begun = np.concatenate([[-1], np.where(is_gap, -1, segments)[:-1]])[: len(segments)]
    last = np.zeros(len(ends), bool)
    some = np.diff(of.offsets) > 0
    last[of.offsets[1:][some] - 1] = of.before_eod[some]
    kinds = np.stack(
        [codes[segments], np.where(is_gap, _UNTOUCHED, rule[segments]), segments != begun, why, last[segments], is_gap]
    ).astype(np.int64)
    local, counts = by_sequence(cuts, of.row_ends)
    return Pieces(local, _numbers(encoder, kinds, labels, table), counts)


def _numbers(encoder: PieceEncoder, kinds: np.ndarray, labels: list[SafetyLabel], table: ReflectionTable) -> np.ndarray:
    """uint16[P]: the entries of pieces of these kinds int64[6, P]."""
    sizes = (max(len(labels), 1), _UNTOUCHED + 1, 2, 3, 2, 2)
    distinct, which = np.unique(np.ravel_multi_index(tuple(kinds), sizes), return_inverse=True)
    numbers = []
    for code, rule, first, why, before_eod, gap in zip(*np.unravel_index(distinct, sizes), strict=True):
        label = SAFE if gap else labels[code]
        numbers.append(encoder(label, int(rule), bool(first), int(why), bool(before_eod), table))
    return np.array(numbers, np.uint16)[which]


def _mixed(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """uint64: hashes of pairs of numbers (the finalizer of splitmix64)."""
    mixed = values.astype(np.uint64) + places.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + np.uint64(_SEED)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _uniform(hashes: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), from hashes."""
    return (hashes >> np.uint64(11)) * 2.0**-53
