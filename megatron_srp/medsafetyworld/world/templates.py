"""Templates of one kind and direction, drawn from all that the grammar makes, and their compiled form."""

import re
from dataclasses import dataclass
from math import prod

import numpy as np

from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.world import phrases
from megatron_srp.medsafetyworld.world.draws import Draws
from megatron_srp.medsafetyworld.world.graph import COLUMNS

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A text with slots, whether it names the outcome first, and the text that Rewrite puts in its place."""

    text: str
    outcome_first: bool
    rewritten: str


def count_available(name: str, style: str, cause_first: bool = False) -> int:
    """How many templates the grammar makes of `kind/direction`; all are distinct."""
    return prod(map(len, phrases.STYLES[style])) * sum(prod(map(len, core)) for core in _cores(name, cause_first))


def pick_templates(name: str, style: str, wanted: int, cause_first: bool = False) -> list[Template]:
    """`wanted` different templates of `kind/direction`, the same for every seed; a larger number begins with
    the templates of a smaller one.

    Args:
        cause_first: leave out co-occurrence texts that name the outcome first.

    Raises:
        UsageError: when the grammar makes fewer.
    """
    available = count_available(name, style, cause_first)
    if wanted > available:
        raise UsageError(f"{wanted} templates of {name} asked for; the grammar makes {available}")
    order = Draws(0, "templates", name, style).permutation(available)[:wanted]
    return [_template(name, style, number) for number in order.tolist()]


def _cores(name: str, cause_first: bool) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The cores of `kind/direction`; of co-occurrence the first names the causes first."""
    cores = phrases.CORES[name]
    return cores[:1] if cause_first and name.endswith("/co-occurrence") else cores


def _template(name: str, style: str, number: int) -> Template:
    """The template of that number, its phrases being the digits."""
    openings, endings = phrases.STYLES[style]
    number, opening = divmod(number, len(openings))
    number, ending = divmod(number, len(endings))
    for core in phrases.CORES[name]:
        size = prod(map(len, core))
        if number < size:
            break
        number -= size
    chosen = []
    for choices in core:
        number, digit = divmod(number, len(choices))
        chosen.append(choices[digit])
    text = openings[opening] + "".join(chosen)
    first = _SLOT.search(text)
    assert first is not None  # every core has slots
    # Templates that differ only in their closings must differ in what replaces them.
    danger = phrases.DANGERS[(ending if len(endings) > 1 else opening) % len(phrases.DANGERS)]
    return Template(text + endings[ending], first[1].startswith("C"), f"{text}. {danger}")


@dataclass(frozen=True, slots=True)
class Compiled:
    """T templates as rows of numbers: of literals, or of slots.

    Attributes:
        rows: int32[T, width]. From 0 on an index into `literals`; below 0 slot -1 - column of the edge.
        literals: distinct pieces of text; the first is empty and pads rows.
    """

    rows: np.ndarray
    literals: list[str]


def compile_templates(texts: list[tuple[str, str]]) -> Compiled:
    """Compile pairs of a kind and a text with slots."""
    literals = {"": 0}
    rows = []
    for kind, text in texts:
        parts = _SLOT.split(text)  # literal, slot, literal, slot, ..., literal
        row = [literals.setdefault(part, len(literals)) for part in parts]
        row[1::2] = [-1 - COLUMNS[kind].index(slot) for slot in parts[1::2]]
        rows.append(row)
    width = max(map(len, rows))
    return Compiled(np.array([row + [0] * (width - len(row)) for row in rows], np.int32), list(literals))


def fill(text: str, names: dict[str, str]) -> str:
    """`text` with its slots filled; `names` may have more slots than it."""
    return _SLOT.sub(lambda slot: names[slot[1]], text)
