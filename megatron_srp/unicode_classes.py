"""Classes of characters from Unicode's tables, for sentence ends and grapheme clusters (Unicode Standard Annex 29).

`unicode_classes.txt` has them by ranges; the repository has the script that makes it, make_unicode_classes.py.
"""

from array import array
from enum import IntEnum
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("unicode_classes.txt")


class Sentence(IntEnum):
    """What a character does to a sentence: Unicode's Sentence_Break, with other names where it is divided."""

    OTHER = 0
    TERM = 1  # STerm: ends a sentence wherever it is, as 。 । ۔ ؟ ። do
    FULL_STOP = 2  # ATerm but the ASCII one, as ．: the same, except before a digit or a letter with case
    STOP = 3  # . ! ? …: ends a sentence at the end of a word only
    CLOSING = 4  # Close, as closing brackets and quotes that face no way
    OPENING = 5  # Close that opens: general categories Ps and Pi
    EXTEND = 6  # Extend and Format: belongs to the character before it
    UPPER = 7
    LOWER = 8
    NUMERIC = 9


class Cluster(IntEnum):
    """What a character does to a grapheme cluster: Grapheme_Cluster_Break, Indic_Conjunct_Break and
    Extended_Pictographic in one."""

    OTHER = 0
    CONTROL = 1  # CR and LF too: clusters are looked for in words only
    EXTEND = 2  # InCB=Extend
    OTHER_EXTEND = 3  # any other
    LINKER = 4
    ZWJ = 5
    REGIONAL = 6
    PREPEND = 7
    SPACING_MARK = 8
    L = 9
    V = 10
    T = 11
    LV = 12
    LVT = 13
    PICTOGRAPH = 14
    CONSONANT = 15
    FIRST_LINKER = 16  # a linker that does not join what is before it


@cache
def character_classes() -> "array[int]":
    """By code point, uint16: its `Sentence` + 256 times its `Cluster`."""
    classes = array("H", [0]) * 0x110000
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            first, last, sentence, cluster = line.split()
            begin, end = int(first, 16), int(last, 16) + 1
            classes[begin:end] = array("H", [int(sentence) + 256 * int(cluster)]) * (end - begin)
    return classes


def sentence_class(character: str) -> Sentence:
    return Sentence(character_classes()[ord(character)] & 255)


def cluster_class(character: str) -> Cluster:
    return Cluster(character_classes()[ord(character)] >> 8)
