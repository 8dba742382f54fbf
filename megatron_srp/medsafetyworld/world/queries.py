"""Questions on a world, each with all its right answers, and which of them are held out for the test."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, product

from megatron_srp.medsafetyworld.world import phrases
from megatron_srp.medsafetyworld.world.draws import Draws
from megatron_srp.medsafetyworld.world.graph import COLUMNS
from megatron_srp.medsafetyworld.world.plan import World
from megatron_srp.medsafetyworld.world.settings import Direction
from megatron_srp.medsafetyworld.world.templates import fill

CLASSES = ("forward-safe", "forward-unsafe", "reverse-safe", "reverse-unsafe")
HARMFUL = "reverse-unsafe"
STRIDE = 11  # shares no factor with the number of wordings, so neighbours differ in both their parts
KINDS = {"single-hop": ("single", "pair"), "two-hop": ("chain",)}


@dataclass(frozen=True, slots=True)
class Query:
    """What a question is about, whatever its wording.

    Attributes:
        kind: of the edges, `single`, `pair` or `chain`.
        direction: forward asks for the outcome of compounds, reverse for the compounds that cause an outcome.
        edges: numbers of the edges that answer it.
        unsafe: whether they have unsafe outcomes; None where only some have.
        names: of what is asked about, by column.
        accepted: the answers, each by the names that it has to contain.
    """

    kind: str
    direction: Direction
    edges: tuple[int, ...]
    unsafe: bool | None
    names: dict[str, str]
    accepted: tuple[tuple[str, ...], ...]

    @property
    def group(self) -> str:
        """`kind/direction`, the key in `phrases`."""
        return f"{self.kind}/{self.direction}"

    def subject(self) -> tuple[str, ...]:
        """The names asked about, which by themselves distinguish compounds from outcomes."""
        return tuple(self.names.values())

    def class_name(self) -> str:
        """One of CLASSES; only for queries that are not mixed."""
        return f"{self.direction}-{'unsafe' if self.unsafe else 'safe'}"

    def question(self, number: int) -> str:
        """A wording; different numbers below `num_wordings()` give different ones."""
        ask, question = list(product(phrases.ASK, phrases.QUESTIONS[self.group]))[number % num_wordings(self.group)]
        text = ask + fill(question, self.names)
        return text[0].upper() + text[1:]


def num_wordings(group: str) -> int:
    return len(phrases.ASK) * len(phrases.QUESTIONS[group])


def all_queries(world: World) -> list[Query]:
    """Every query of the world: on each compound or pair of them (forward), on each outcome (reverse)."""
    return [
        query
        for kind, direction in product(KINDS[world.spec.task], (Direction.FORWARD, Direction.REVERSE))
        for query in _queries(world, kind, direction)
    ]


def _queries(world: World, kind: str, direction: Direction) -> list[Query]:
    causes = [column for column in COLUMNS[kind] if column[0] == "A"]
    asked, answers = (causes, ["C"]) if direction is Direction.FORWARD else (["C"], causes)
    at = [COLUMNS[kind].index(column) for column in asked]
    by_subject: dict[tuple[int, ...], list[int]] = {}
    for edge, subject in enumerate(map(tuple, world.graph[kind][:, at].tolist())):
        by_subject.setdefault(subject, []).append(edge)
    unsafe, queries = world.is_unsafe(kind), []
    for edges in by_subject.values():
        names = [world.names(kind, edge) for edge in edges]
        accepted = dict.fromkeys(tuple(name[column] for column in answers) for name in names)
        kinds = {bool(unsafe[edge]) for edge in edges}
        queries.append(
            Query(
                kind,
                direction,
                tuple(edges),
                kinds.pop() if len(kinds) == 1 else None,
                {column: names[0][column] for column in asked},
                tuple(accepted),
            )
        )
    return queries


def worded(seed: int, name: str, queries: list[Query], wanted: int) -> Iterator[tuple[Query, int]]:
    """`wanted` pairs of a query and a wording, none twice: all queries once, then all again. Fewer where there are not
    that many; `name` is that of the draws."""
    order = Draws(seed, name).permutation(len(queries)).tolist()
    starts = Draws(seed, name, "wordings").below(1 << 16, len(queries)).tolist()
    made = 0
    for turn in count():
        for i in order:
            if made == wanted or turn == num_wordings(queries[i].group):
                return
            yield queries[i], starts[i] + STRIDE * turn
            made += 1
        if not order:
            return


def split(world: World, queries: list[Query]) -> tuple[list[Query], list[Query]]:
    """Queries for testing and for training.

    Of each class as many are held out as the test can use, at most half. In reverse whole outcomes are held
    out, alone and in pairs. Mixed queries are for training.
    """
    most = -(-world.spec.test_per_class // len(KINDS[world.spec.task]))
    held_out: set[tuple[str, ...]] = set()
    for name, subjects in _subjects(queries).items():
        order = Draws(world.seed, "split", name).permutation(len(subjects)).tolist()
        held_out |= {subjects[i] for i in order[: min(most, len(subjects) // 2)]}
    test = [query for query in queries if query.subject() in held_out]
    return test, [query for query in queries if query.subject() not in held_out]


def _subjects(queries: list[Query]) -> dict[str, list[tuple[str, ...]]]:
    """What is asked about in each class: compounds, pairs of them, and outcomes."""
    subjects: dict[str, dict[tuple[str, ...], None]] = {}
    for query in queries:
        if query.unsafe is not None:
            kind = query.kind if query.direction is Direction.FORWARD else ""
            subjects.setdefault(f"{kind} {query.class_name()}", {})[query.subject()] = None
    return {name: list(found) for name, found in subjects.items()}
