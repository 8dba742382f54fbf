"""The list of all texts of a world, which is never written out: text number -> edge and template.

Every edge rendered in a direction gives `templates` texts. All texts of all kinds and directions are numbered
through, the numbers are scattered over the corpus by a multiplication modulo their count, and each shard
shuffles its own: so any shard can be made independently, and each is a representative sample of the world.
"""

from dataclasses import dataclass
from math import gcd

import numpy as np

from megatron_srp.medsafetyworld.world.draws import Draws
from megatron_srp.medsafetyworld.world.entities import Entities, make_entities
from megatron_srp.medsafetyworld.world.graph import COLUMNS, Graph, single_hop, two_hop
from megatron_srp.medsafetyworld.world.presets import WorldSpec
from megatron_srp.medsafetyworld.world.settings import Direction
from megatron_srp.medsafetyworld.world.templates import Template, pick_templates

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class World:
    """Entities and graph, the same for every setting."""

    spec: WorldSpec
    seed: int
    entities: Entities
    graph: Graph

    @classmethod
    def build(cls, spec: WorldSpec, seed: int) -> "World":
        """Raises UsageError when `spec` asks for more names or edges than can exist."""
        entities = make_entities(spec.compounds, spec.mediators, spec.outcomes, spec.unsafe_share, seed)
        if spec.task == "two-hop":
            graph = two_hop(spec.compounds, spec.mediators, spec.outcomes, spec.edges["join"], seed)
        else:
            graph = single_hop(spec.compounds, spec.outcomes, spec.edges["single"], spec.edges["pair"], seed)
        return cls(spec, seed, entities, graph)

    def is_unsafe(self, kind: str) -> np.ndarray:
        """bool[edges]: whose outcome is unsafe; none of those without an outcome."""
        edges = self.graph[kind]
        return self.entities.unsafe[edges[:, -1]] if COLUMNS[kind][-1] == "C" else np.zeros(len(edges), bool)

    def is_told(self, group: str) -> np.ndarray:
        """bool[edges]: of which edges there are texts of that `kind/direction`."""
        edges = len(self.graph[group.split("/")[0]])
        return Draws(self.seed, "told", group).chance(self.spec.renderings[group].probability, edges)

    def told_outcome_first(self, kind: str) -> dict[str, np.ndarray]:
        """By direction bool[edges]: which edges have texts that name the outcome before its causes."""
        backward = [Direction.REVERSE] if self.spec.cause_first else [Direction.REVERSE, Direction.CO_OCCURRENCE]
        groups = {str(direction): f"{kind}/{direction}" for direction in backward}
        return {name: self.is_told(group) for name, group in groups.items() if group in self.spec.renderings}

    def names(self, kind: str, edge: int) -> dict[str, str]:
        """The names of one edge by column."""
        pools = {"A": self.entities.compounds, "B": self.entities.mediators, "C": self.entities.outcomes}
        numbers = self.graph[kind][edge].tolist()
        return {column: pools[column[0]][number] for column, number in zip(COLUMNS[kind], numbers, strict=True)}


@dataclass(frozen=True, slots=True)
class Group:
    """The texts of one kind and direction: `told` int64[n] edges, and `templates` texts for each."""

    kind: str
    direction: Direction
    told: np.ndarray
    templates: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.direction}"

    def __len__(self) -> int:
        return len(self.told) * self.templates


@dataclass(frozen=True, slots=True)
class Texts:
    """N texts: int64[N] each."""

    group: np.ndarray
    edge: np.ndarray
    template: np.ndarray


class Plan:
    """All texts of a world before any setting leaves some out.

    Attributes:
        groups: in the order of the preset.
        total: number of texts.
        shards: number of shards, of `spec.shard_texts` texts each but the last.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.groups = [self._group(name) for name in world.spec.renderings]
        self._starts = np.cumsum([0, *map(len, self.groups)])
        self.total = int(self._starts[-1])
        self.shards = -(-self.total // world.spec.shard_texts)
        self._factor = next(n for n in range(max(int(self.total * _GOLDEN), 1), 2**62) if gcd(n, self.total) == 1)

    def _group(self, name: str) -> Group:
        kind, direction = name.split("/")
        told = np.flatnonzero(self.world.is_told(name))
        return Group(kind, Direction(direction), told, self.world.spec.renderings[name].templates)

    def templates(self, group: Group) -> list[Template]:
        """The templates of the group's texts."""
        spec = self.world.spec
        return pick_templates(group.name, spec.style, group.templates, spec.cause_first)

    def texts(self, shard: int) -> Texts:
        """The texts of one shard, in order."""
        size = self.world.spec.shard_texts
        places = np.arange(shard * size, min((shard + 1) * size, self.total))
        numbers = (places * self._factor) % self.total  # both below 2**31: no overflow
        numbers = numbers[Draws(self.world.seed, "shard", shard).permutation(len(numbers))]
        group = np.searchsorted(self._starts, numbers, side="right") - 1
        at = numbers - self._starts[group]
        templates = np.array([g.templates for g in self.groups])[group]
        told = np.concatenate([g.told for g in self.groups])
        first = np.cumsum([0, *(len(g.told) for g in self.groups)])[group]
        return Texts(group, told[first + at // templates], at % templates)
