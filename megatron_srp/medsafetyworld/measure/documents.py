"""A run's tables in the documents, between marks, so that one command regenerates them.

<!-- world: NAME -->
(generated)
<!-- end: NAME -->
"""

import re
from collections.abc import Mapping
from pathlib import Path

from megatron_srp.errors import InputError
from megatron_srp.files import write_text

_BLOCK = re.compile(r"(<!-- world: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def fill(document: Path, tables: Mapping[str, str]) -> list[str]:
    """Replace what is between the marks by the tables of their names; returns these.

    Raises:
        InputError: when the document has no marks, or one of a table that there is not.
    """
    text = document.read_text(encoding="utf-8")
    found = [name for _, name, _ in _BLOCK.findall(text)]
    unknown = [name for name in found if name not in tables]
    if unknown or not found:
        given = f"a mark {unknown[0]!r}" if unknown else "no mark"
        raise InputError(
            f"{document}: {given}; write <!-- world: NAME --> and <!-- end: NAME -->, of {', '.join(tables)}"
        )
    write_text(document, _BLOCK.sub(lambda block: f"{block[1]}{tables[block[2]].strip()}\n{block[3]}", text))
    return found
