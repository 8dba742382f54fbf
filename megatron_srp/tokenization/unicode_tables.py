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
from tokenizers import Regex, normalizers, pre_tokenizers

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
    known = [c for part in _PLANES for c in part if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    unsettled[known] = False
    text = "".join(map(chr, known))
    for _, (begin, end) in pre_tokenizers.Split(Regex(r"\P{Cn}+"), "removed").pre_tokenize_str(text):
        unsettled[known[begin:end]] = True
    unsettled[_otherwise_normalised(text)] = True
    return unsettled


def _otherwise_normalised(characters: str) -> list[int]:
    """Those of the characters that the reference's normalizers change differently from Python's, and the first
    characters of the pairs that compose them."""
    found = []
    for c in characters:
        parts = unicodedata.decomposition(c)
        if not (parts or unicodedata.combining(c)):
            continue
        probe = f"{c} a{_HIGH}{c} a{c}{_LOW}"
        if any(form.normalize_str(probe) != unicodedata.normalize(name, probe) for name, form in _FORMS.items()):
            found.append(ord(c))
            if parts and not parts.startswith("<"):
                found.append(int(parts.split()[0], 16))
    return found


@cache
def wide_numerals() -> np.ndarray:
    """bool[0x110000]: code points beyond ASCII that a Digits pre-tokenizer splits off."""
    numerals = np.zeros(_ALL, bool)
    numerals[[c for part in _PLANES for c in part if c > 0x7F and unicodedata.category(chr(c)).startswith("N")]] = True
    return numerals
