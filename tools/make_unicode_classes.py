"""Write megatron_srp/unicode_classes.txt: what the segmentation needs of Unicode's tables, by ranges of code points.

    python tools/make_unicode_classes.py

The properties come from the `regex` package, which carries the whole Unicode Character Database; run it again for a
newer version. The classes are explained in megatron_srp/unicode_classes.py.
"""

import re
from collections.abc import Callable
from importlib.metadata import distribution
from itertools import groupby

import regex

from megatron_srp.unicode_classes import TABLE, Cluster, Sentence

CODE_POINTS = "".join(map(chr, range(0x110000)))
HEAD = """\
# Made by tools/make_unicode_classes.py from the Unicode Character Database {version}: Sentence_Break,
# Grapheme_Cluster_Break, Indic_Conjunct_Break, Extended_Pictographic, General_Category.
# Copyright (c) 1991-2026 Unicode, Inc. Unicode License v3, https://www.unicode.org/license.txt
# Each line: first and last code point in hexadecimal, class Sentence, class Cluster (megatron_srp/unicode_classes.py).
"""


def having(property_: str) -> set[int]:
    return {match.start() for match in regex.finditer(rf"\p{{{property_}}}", CODE_POINTS)}


def sentence_classes() -> dict[int, Sentence]:
    close, opening = having("SB=Close"), having("Ps") | having("Pi")
    term, numeric = having("SB=STerm"), having("SB=Numeric")
    classes = dict.fromkeys(having("SB=Upper"), Sentence.UPPER) | dict.fromkeys(having("SB=Lower"), Sentence.LOWER)
    classes |= dict.fromkeys(numeric, Sentence.NUMERIC) | dict.fromkeys(term, Sentence.TERM)
    classes |= dict.fromkeys(having("SB=ATerm"), Sentence.FULL_STOP)
    classes |= dict.fromkeys(close - opening, Sentence.CLOSING) | dict.fromkeys(close & opening, Sentence.OPENING)
    classes |= dict.fromkeys(having("SB=Extend") | having("SB=Format"), Sentence.EXTEND)
    return classes | dict.fromkeys(map(ord, ".!?…"), Sentence.STOP)


def cluster_classes() -> dict[int, Cluster]:
    extend, zwj = having("GCB=Extend"), having("GCB=ZWJ")
    linker, joining = having("InCB=Linker"), having("InCB=Extend")
    assert joining <= extend | zwj, "the classes must tell more apart"
    plain = {"Prepend": Cluster.PREPEND, "SpacingMark": Cluster.SPACING_MARK, "ZWJ": Cluster.ZWJ}
    hangul = {name: Cluster[name] for name in ("L", "V", "T", "LV", "LVT")}
    control = having("GCB=Control") | having("GCB=CR") | having("GCB=LF")
    classes = dict.fromkeys(control, Cluster.CONTROL) | dict.fromkeys(extend - joining - linker, Cluster.OTHER_EXTEND)
    classes |= dict.fromkeys(extend & joining - linker, Cluster.EXTEND)
    classes |= dict.fromkeys(linker & extend, Cluster.LINKER) | dict.fromkeys(linker - extend, Cluster.FIRST_LINKER)
    classes |= dict.fromkeys(having("GCB=Regional_Indicator"), Cluster.REGIONAL)
    for name, kind in (plain | hangul).items():
        classes |= dict.fromkeys(having(f"GCB={name}"), kind)
    for name, kind in {"Extended_Pictographic": Cluster.PICTOGRAPH, "InCB=Consonant": Cluster.CONSONANT}.items():
        assert not having(name) & classes.keys(), "the classes must tell more apart"
        classes |= dict.fromkeys(having(name), kind)
    return classes


def unicode_version() -> str:
    found = re.search(r"supports Unicode ([\d.]+\d)", distribution("regex").read_text("METADATA") or "")
    assert found, "the regex package does not say which version of Unicode it has"
    return found[1]


def main() -> None:
    sentence, cluster = sentence_classes(), cluster_classes()
    of: Callable[[int], tuple[int, int]] = lambda c: (int(sentence.get(c, 0)), int(cluster.get(c, 0)))  # noqa: E731
    lines = []
    for kinds, group in groupby(range(0x110000), of):
        points = list(group)
        if any(kinds):
            lines.append(f"{points[0]:04X} {points[-1]:04X} {kinds[0]} {kinds[1]}\n")
    TABLE.write_text(HEAD.format(version=unicode_version()) + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
