"""Where a document is cut: segments of at most `max_words` words, ending where a sentence ends.

This is the definition, in plain Python and by a full scan of the text. `corpus/_text.c` computes
the same cuts about a thousand times faster by looking back from each limit for the nearest sentence
end; the tests compare the two on random text.

A *word* is a run of non-whitespace. A segment starts where the last one ended and takes at most
`max_words` words and, from its first word on, `BYTES_PER_WORD * max_words` bytes of UTF-8 (text
without spaces is a single word). Within that limit it is cut at

1. the last sentence end; else
2. the last word end; else (one endless word)
3. the limit itself, between two grapheme clusters (between two characters where one cluster exceeds the limit).

A cut is directly after a word, so the next segment begins with the whitespace: byte-level BPE and
SentencePiece attach a space to the word after it, and a cut there splits no token.

Sentences end as in Unicode Standard Annex 29, by its classes of characters (`unicode_classes`), with three differences
that suit web text: ASCII stops count at the end of a word only, abbreviations and initials are known, and a line break
ends a sentence.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from megatron_srp.errors import UsageError
from megatron_srp.schema import Segment
from megatron_srp.unicode_classes import Cluster, Sentence, cluster_class, sentence_class

DEFAULT_MAX_WORDS = 100  # the most robust interval of the paper's ablation (Table 11)
LARGEST_MAX_WORDS = 100_000
BYTES_PER_WORD = 16  # English needs about 6

# Unicode's White_Space property, which is also what `\s` means to the tokenizers.
WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# Words that end in a full stop without ending a sentence. Words that are also common without one
# ("no", "mar", "sat") are left out: a missed abbreviation costs less than a missed sentence end.
ABBREVIATIONS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "sr",
        "jr",
        "st",
        "vs",
        "fig",
        "figs",
        "eq",
        "eqs",
        "vol",
        "pp",
        "al",
        "inc",
        "ltd",
        "corp",
        "gen",
        "col",
        "capt",
        "lt",
        "sgt",
        "rev",
        "hon",
        "gov",
        "sen",
        "rep",
        "dept",
        "univ",
        "approx",
        "jan",
        "feb",
        "apr",
        "aug",
        "sept",
        "oct",
        "nov",
        "dec",
        "mt",
        "etc",
        "ca",
        "cf",
        "ed",
        "eds",
        "esq",
        "messrs",
        "mme",
        "mlle",
    ]
)

_WORD = re.compile(f"[^{WHITESPACE}]+")
# A text as the classes of its characters, a letter for each, in which sentence ends are easy to describe.
_LETTERS = dict(zip(Sentence, "-TFSCOXULN", strict=True))
_END_ANYWHERE = re.compile("(?:T|F(?![ULN]))[TFSCX]*")
_END_OF_WORD = re.compile("S[COX]*$")


def check_max_words(max_words: int) -> int:
    """`max_words` itself when it is in range; raises UsageError otherwise."""
    if not 1 <= max_words <= LARGEST_MAX_WORDS:
        raise UsageError(f"--max-words {max_words}: pass a number from 1 to {LARGEST_MAX_WORDS} (the paper's is 100)")
    return max_words


def _letters(text: str) -> str:
    return "".join(_LETTERS[sentence_class(character)] for character in text)


def _ends_sentence(word: str, classes: str, space: str, following: str) -> bool:
    """Whether `word` of these `classes`, followed by whitespace and a character of the class `following`, ends a
    sentence."""
    newlines = space.count("\n")
    if not following or newlines > 1 or (newlines == 1 and following != "L"):
        return True
    stop = _END_OF_WORD.search(classes)
    if stop is None or following == "L":
        return False
    if word[stop.start()] != ".":
        return True
    start = len(classes) - len(classes.lstrip("CO"))
    bare, kinds = word[start : stop.start()], classes[start : stop.start()]
    is_initial, is_list_number = kinds in ("U", "L"), kinds in ("N", "NN")
    return not (is_initial or is_list_number or "." in bare or bare.lower() in ABBREVIATIONS)


def sentence_ends(text: str) -> list[int]:
    """Character offsets at which a sentence ends, ascending; the last word's end is always one."""
    classes = _letters(text)
    ends = [m.end() for m in _END_ANYWHERE.finditer(classes)]
    words = [m.span() for m in _WORD.finditer(text)]
    next_starts = [start for start, _ in words[1:]] + [len(text)]
    for (start, end), following in zip(words, next_starts, strict=False):
        if _ends_sentence(text[start:end], classes[start:end], text[end:following], classes[following : following + 1]):
            ends.append(end)
    return sorted(set(ends))


def cluster_ends(text: str) -> list[int]:
    """Character offsets at which a grapheme cluster of a text without line breaks ends (UAX 29, GB3 to GB999)."""
    kinds = [cluster_class(character) for character in text]
    ends, linked, regional, pictograph = [], False, 0, 0
    for i, kind in enumerate(kinds):
        joined = (
            _joins(kinds[i - 1], kind)
            or (linked and kind is Cluster.CONSONANT)  # GB9c
            or (pictograph == 2 and kind is Cluster.PICTOGRAPH)  # GB11; 2: after its joiner
            or (regional % 2 == 1 and kind is Cluster.REGIONAL)  # GB12, GB13
        )
        if i and not joined:
            ends.append(i)
        linked = kind in _LINKERS or (linked and kind in (Cluster.EXTEND, Cluster.ZWJ))
        regional = regional + 1 if kind is Cluster.REGIONAL else 0
        if kind is Cluster.PICTOGRAPH:
            pictograph = 1
        elif kind is Cluster.ZWJ:
            pictograph = 2 * (pictograph == 1)
        else:
            pictograph = int(pictograph == 1 and kind in _EXTENDS)
    return [*ends, len(text)] if text else []


_LINKERS = (Cluster.LINKER, Cluster.FIRST_LINKER)
_EXTENDS = (Cluster.EXTEND, Cluster.OTHER_EXTEND, Cluster.LINKER)
_HANGUL = {
    Cluster.L: (Cluster.L, Cluster.V, Cluster.LV, Cluster.LVT),
    **dict.fromkeys((Cluster.LV, Cluster.V), (Cluster.V, Cluster.T)),
    **dict.fromkeys((Cluster.LVT, Cluster.T), (Cluster.T,)),
}


def _joins(before: Cluster, kind: Cluster) -> bool:
    """Whether a cluster goes on between two characters of these classes, whatever is before them."""
    if Cluster.CONTROL in (before, kind):  # GB4, GB5
        return False
    return (
        kind in (*_EXTENDS, Cluster.ZWJ, Cluster.SPACING_MARK)  # GB9, GB9a
        or before is Cluster.PREPEND  # GB9b
        or kind in _HANGUL.get(before, ())  # GB6 to GB8
    )


def _last_in(positions: Sequence[int], after: int, upto: int) -> int | None:
    """The largest of the ascending `positions` in (after, upto], if there is one."""
    i = bisect_right(positions, upto) - 1
    return positions[i] if i >= 0 and positions[i] > after else None


def _last_cluster(text: str, first: int, limit: int) -> int:
    """The last end of a cluster in (first, limit], where `first` begins one; else `limit`."""
    more = text[first : limit + 1]  # with the character after it: does it continue the last cluster?
    ends = [first + end for end in cluster_ends(more) if first + end <= limit]
    return ends[-1] if ends else limit


def segment_text(text: str, max_words: int = DEFAULT_MAX_WORDS) -> list[Segment]:
    """Cut `text` into segments that tile it exactly; none for an empty text.

        >>> from megatron_srp import segment_text
        >>> text = "It rains. The river rises."
        >>> [text[start:end] for start, end in segment_text(text, max_words=3)]
        ['It rains.', ' The river rises.']

    Args:
        text: the document.
        max_words: maximum words per segment, 1 to 100000.

    Raises:
        UsageError: when `max_words` is out of range.
    """
    max_bytes = BYTES_PER_WORD * check_max_words(max_words)
    words = [m.span() for m in _WORD.finditer(text)]
    starts, ends = [w[0] for w in words], [w[1] for w in words]
    sentences = sentence_ends(text)
    byte_at = [0, *accumulate(len(c.encode()) for c in text)]  # byte_at[i]: bytes before character i
    segments: list[Segment] = []
    start = 0
    while start < len(text):
        i = bisect_right(ends, start)  # the first word that reaches beyond `start`
        cut = len(text)
        if words:
            first = max(start, starts[i])
            by_bytes = bisect_right(byte_at, byte_at[first] + max_bytes) - 1
            by_words = ends[min(i + max_words, len(words)) - 1]
            limit = min(by_bytes, by_words)
            if limit < ends[-1]:
                found = _last_in(sentences, first, limit) or _last_in(ends, first, limit)
                cut = found or _last_cluster(text, first, limit)
        segments.append(Segment(start, cut))
        start = cut
    return segments
