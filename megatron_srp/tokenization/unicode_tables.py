"""Characters for which gigatoken, whose Unicode tables are newer, may produce ids other than the reference's.

Unicode never changes how assigned characters normalise and hardly ever their category, so two versions
of its tables differ only in characters that the older one does not know yet. `tokenizers` has several versions:
its regular expressions (Oniguruma) are newer than its normalizers (Unicode 9 or so).
"""

import sys
import unicodedata
from functools import cache
from typing import Any, Literal

import numpy as np
from tokenizers import Regex, normalizers

_ALL = sys.maxunicode + 1
_PLANES = (range(0xE000), range(0xF900, 0x34000), range(0xE0000, 0xE0200))  # with assigned characters
_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, _ALL))
# The other two forms use the same tables as these two.
_FORMS: dict[Literal["NFC", "NFKD"], Any] = {"NFC": normalizers.NFC(), "NFKD": normalizers.NFKD()}
_LOW, _HIGH = "\u0334", "\u0345"  # marks that go before and after nearly all others


@cache
def unsettled_characters() -> np.ndarray:
    """bool[0x110000]: code points that the tables of Python or of the reference do not know, or normalise
    in different ways. Text in use has next to none."""
    unsettled = np.ones(_ALL, bool)
    for part in _PRIVATE:
        unsettled[part.start : part.stop] = False
    text = "".join(c for part in _PLANES for c in map(chr, part) if unicodedata.category(c) not in ("Cn", "Cs"))
    unsettled[_code_points(text)] = False
    assigned = normalizers.Replace(Regex(r"\p{Cn}"), "").normalize_str(text)  # by the reference's expressions
    unsettled[np.setdiff1d(_code_points(text), _code_points(assigned), assume_unique=True)] = True
    unsettled[[*_otherwise_normalised(text)]] = True
    return unsettled


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _otherwise_normalised(characters: str) -> set[int]:
    """Those of the characters that the reference's normalizers change differently from Python's, and the first
    characters of the pairs that compose them."""
    changing = [c for c in characters if unicodedata.decomposition(c) or unicodedata.combining(c)]
    # One probe in a line: no form changes a line break, or a character because one is next to it.
    text = "\n".join(f"{c} a{_HIGH}{c} a{c}{_LOW}" for c in changing)
    found = set()
    for name, form in _FORMS.items():
        lines = form.normalize_str(text).split("\n"), unicodedata.normalize(name, text).split("\n")
        found |= {c for c, one, other in zip(changing, *lines, strict=True) if one != other}
    pairs = [parts for c in found if (parts := unicodedata.decomposition(c)) and not parts.startswith("<")]
    return {ord(c) for c in found} | {int(parts.split()[0], 16) for parts in pairs}


@cache
def wide_numerals() -> np.ndarray:
    """bool[0x110000]: code points beyond ASCII that a Digits pre-tokenizer splits off."""
    numerals = np.zeros(_ALL, bool)
    numerals[[c for part in _PLANES for c in part if c > 0x7F and unicodedata.category(chr(c)).startswith("N")]] = True
    return numerals
