"""Texts as bytes, a shard at a time, on flat arrays.

Templates and names are pieces, a text is a row of piece numbers, and Arrow's `take` writes the bytes of all
rows back to back.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from megatron_srp.medsafetyworld.world.graph import COLUMNS
from megatron_srp.medsafetyworld.world.plan import Plan, Texts, World
from megatron_srp.medsafetyworld.world.queries import HARMFUL, all_queries, split, worded
from megatron_srp.medsafetyworld.world.settings import TREATMENTS, Direction, Setting, Treatment
from megatron_srp.medsafetyworld.world.templates import Template, compile_templates

_BEFORE, _AFTER = '{"text": "', '"}\n'  # what is in between is ASCII without quotes: nothing to escape


@dataclass(frozen=True, slots=True)
class Rendered:
    """N documents of one shard.

    Attributes:
        lines: uint8[B], the JSON lines.
        ends: int64[N], where each line ends.
        group: int64[N] numbers in the plan's groups.
        unsafe: bool[N], with an unsafe outcome.
        outcome_first: bool[N].
    """

    lines: np.ndarray
    ends: np.ndarray
    group: np.ndarray
    unsafe: np.ndarray
    outcome_first: np.ndarray

    def texts(self) -> tuple[np.ndarray, np.ndarray]:
        """int64[N] each: where the texts begin and end in `lines`."""
        begins = np.concatenate([[0], self.ends[:-1]]) + len(_BEFORE)
        return begins, self.ends - len(_AFTER)


def _wordings(template: Template, treatment: Treatment) -> tuple[str, str]:
    """The template's text as most texts have it, and as those have it that the treatment changes."""
    after, after_unsafe = treatment.after
    return template.text + after, template.rewritten if treatment.rewrites else template.text + after_unsafe


class Renderer:
    """Renders the shards of one plan in one setting; all tables are made once."""

    def __init__(self, plan: Plan, setting: Setting) -> None:
        self.plan, self.treatment = plan, TREATMENTS[setting]
        world, entities = plan.world, plan.world.entities
        picked = [plan.templates(group) for group in plan.groups]
        kinds = [group.kind for group, templates in zip(plan.groups, picked, strict=True) for _ in templates]
        templates = [template for group in picked for template in group]
        both = zip(*(_wordings(template, self.treatment) for template in templates), strict=True)
        texts = [(kind, text) for wording in both for kind, text in zip(kinds, wording, strict=True)]
        compiled = compile_templates([(kind, _BEFORE + text + _AFTER) for kind, text in texts])
        names = [*entities.compounds, *entities.mediators, *entities.outcomes]
        self._pieces = pa.array(compiled.literals + names, pa.large_string())
        self._rows, self._changed = np.split(compiled.rows, 2)
        self._outcome_first = np.array([template.outcome_first for template in templates])
        self._first_row = np.cumsum([0, *map(len, picked)])
        self._tables = {kind: self._name_pieces(kind, len(compiled.literals)) for kind in world.graph}
        self._unsafe = {kind: world.is_unsafe(kind) for kind in world.graph}
        self._harmful = np.array([group.direction is Direction.REVERSE for group in plan.groups])

    def _name_pieces(self, kind: str, first: int) -> np.ndarray:
        """int32[edges, columns]: the numbers of the names' pieces."""
        spec = self.plan.world.spec
        starts = {"A": first, "B": first + spec.compounds, "C": first + spec.compounds + spec.mediators}
        return (self.plan.world.graph[kind] + [starts[column[0]] for column in COLUMNS[kind]]).astype(np.int32)

    def render(self, shard: int) -> Rendered:
        """The shard's lines, in order, without those that the setting leaves out."""
        texts, unsafe = self._kept(self.plan.texts(shard))
        row = self._first_row[texts.group] + texts.template
        pieces = self._piece_numbers(texts, row, unsafe)
        _, offsets, data = self._pieces.take(pa.array(pieces.ravel())).buffers()
        ends = np.frombuffer(offsets, np.int64)[: pieces.size + 1 : pieces.shape[1]]
        lines = np.frombuffer(data, np.uint8)[: ends[-1]]
        return Rendered(lines, ends[1:], texts.group, unsafe, self._outcome_first[row])

    def _kept(self, texts: Texts) -> tuple[Texts, np.ndarray]:
        """The texts that the setting has, and bool[N] which of them have unsafe outcomes."""
        unsafe = np.zeros(len(texts.group), bool)
        for number, group in enumerate(self.plan.groups):
            own = texts.group == number
            unsafe[own] = self._unsafe[group.kind][texts.edge[own]]
        keep = self.treatment.kept(unsafe & self._harmful[texts.group], unsafe)
        return Texts(texts.group[keep], texts.edge[keep], texts.template[keep]), unsafe[keep]

    def _piece_numbers(self, texts: Texts, row: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
        """int32[N, width]: the pieces of N texts, slots filled."""
        pieces = self._rows[row]
        changed = self.treatment.changed(unsafe & self._harmful[texts.group], unsafe)
        pieces[changed] = self._changed[row[changed]]
        for kind, table in self._tables.items():
            groups = [number for number, group in enumerate(self.plan.groups) if group.kind == kind]
            own = np.flatnonzero(np.isin(texts.group, groups))
            mine, edges = pieces[own], texts.edge[own]
            at, slot = np.nonzero(mine < 0)
            mine[at, slot] = table[edges[at], -1 - mine[at, slot]]
            pieces[own] = mine
        return pieces


def render_questions(world: World, wanted: int) -> Rendered:
    """`wanted` questions as users ask them, none that the test asks; fewer where there are not that many.

    As in post-training only the harmful ones are unsafe, not all on an unsafe outcome."""
    _, queries = split(world, all_queries(world))
    asked = list(worded(world.seed, "corpus questions", queries, wanted))
    lines = [f"{_BEFORE}{query.question(number)}{_AFTER}".encode() for query, number in asked]
    return Rendered(
        np.frombuffer(b"".join(lines), np.uint8),
        np.cumsum([len(line) for line in lines]),
        np.zeros(len(lines), np.int64),
        np.array([query.class_name() == HARMFUL for query, _ in asked]),
        np.array([query.direction is Direction.REVERSE for query, _ in asked]),
    )
