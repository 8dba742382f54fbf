"""Where a document is cut: segments of at most `max_words` words, ending where a sentence ends.

This is the definition, in plain Python and by a full scan of the text. `corpus/_text.c` computes
the same cuts about a thousand times faster by looking back from each limit for the nearest sentence
end; the tests compare the two on random text.

A *word* is a run of non-whitespace. A segment starts where the last one ended and takes at most
`max_words` words and, from its first word on, `BYTES_PER_WORD * max_words` bytes of UTF-8 (text
without spaces is a single word). Within that limit it is cut at

1. the last sentence end; else
2. the last word end; else (one endless word)
3. the limit itself, between two characters.

A cut lies directly after a word, so that whitespace opens the next segment: byte-level BPE and
SentencePiece attach a space to the word after it, and a cut there splits no token.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from megatron_srp.errors import UsageError
from megatron_srp.schema import Segment

DEFAULT_MAX_WORDS = 100  # the most robust interval of the paper's ablation (Table 11)
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

_OPENING = "\"'([{“‘«"
_CLOSING = "\"')\\]}”’»"
_CJK_CLOSING = "」』）”’"
_CJK_END = "。！？"
_WORD = re.compile(f"[^{WHITESPACE}]+")
_CJK_STOP = re.compile(f"[{_CJK_END}][{_CJK_END}{_CJK_CLOSING}]*")
_STOP = re.compile(f"([.!?…])[{_CLOSING}]*$")
_LOWERCASE = re.compile("[a-z]")


def check_max_words(max_words: int) -> int:
    """`max_words` itself when it is in range; raises UsageError otherwise."""
    if not 1 <= max_words <= 100_000:
        raise UsageError(f"--max-words {max_words}: pass a number from 1 to 100000 (the paper's is 100)")
    return max_words


def _ends_sentence(word: str, space: str, following: str) -> bool:
    """Whether `word`, followed by the whitespace `space` and the character `following`, ends a sentence."""
    lowercase_follows = _LOWERCASE.match(following) is not None
    newlines = space.count("\n")
    if not following or newlines > 1 or (newlines == 1 and not lowercase_follows):
        return True
    stop = _STOP.search(word)
    if stop is None or lowercase_follows:
        return False
    if stop[1] != ".":
        return True
    bare = word[: stop.start()].lstrip(_OPENING)
    is_initial = len(bare) == 1 and bare.isascii() and bare.isalpha()
    is_list_number = len(bare) <= 2 and bare.isascii() and bare.isdigit()
    return not (is_initial or is_list_number or "." in bare or bare.lower() in ABBREVIATIONS)


def sentence_ends(text: str) -> list[int]:
    """Character offsets at which a sentence ends, ascending; the last word's end is always one."""
    ends = [m.end() for m in _CJK_STOP.finditer(text)]
    words = [m.span() for m in _WORD.finditer(text)]
    next_starts = [start for start, _ in words[1:]] + [len(text)]
    for (start, end), next_start in zip(words, next_starts, strict=False):
        if _ends_sentence(text[start:end], text[end:next_start], text[next_start : next_start + 1]):
            ends.append(end)
    return sorted(set(ends))


def _last_in(positions: Sequence[int], after: int, upto: int) -> int | None:
    """The largest of the ascending `positions` in (after, upto], if there is one."""
    i = bisect_right(positions, upto) - 1
    return positions[i] if i >= 0 and positions[i] > after else None


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
                cut = _last_in(sentences, first, limit) or _last_in(ends, first, limit) or limit
        segments.append(Segment(start, cut))
        start = cut
    return segments
