"""Who causes what: the two graphs of the paper, as arrays of entity numbers.

Single-hop: compounds cause outcomes, alone or in pairs.
Two-hop: compounds cause mediators, pairs of mediators cause outcomes, and a chain is a path through both.

An edge's columns are those of `COLUMNS[kind]`: A compounds, B mediators, C outcomes.
"""

from collections.abc import Callable

import numpy as np

from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.world.draws import Draws

COLUMNS = {
    "single": ("A", "C"),
    "pair": ("A1", "A2", "C"),
    "step": ("A", "B"),
    "join": ("B1", "B2", "C"),
    "chain": ("A1", "A2", "B1", "B2", "C"),
}

Graph = dict[str, np.ndarray]  # kind -> int64[edges, columns]


def _distinct(draw: Callable[[int], np.ndarray], wanted: int, most: int, taken: np.ndarray, what: str) -> np.ndarray:
    """int64[wanted] numbers from `draw(n)`, in the order drawn, none twice and none of `taken`.

    `most` is how many different numbers there are, `taken` included.
    """
    if len(taken) + wanted > most:
        raise UsageError(f"{len(taken) + wanted} different {what} asked for, but there are only {most}")
    found = taken
    while len(found) < len(taken) + wanted:
        longer = np.concatenate([found, draw(2 * wanted + 64)])
        _, first = np.unique(longer, return_index=True)
        found = longer[np.sort(first)]
    return found[len(taken) : len(taken) + wanted]


def _pairs(n: int, wanted: int, draws: Draws, what: str) -> np.ndarray:
    """int64[wanted, 2]: different unordered pairs of different numbers below n, in a random order each."""

    def draw(count: int) -> np.ndarray:
        a, b = draws.below(n, count), draws.below(n, count)
        return (np.minimum(a, b) * n + np.maximum(a, b))[a != b]

    numbers = _distinct(draw, wanted, n * (n - 1) // 2, np.empty(0, np.int64), what)
    swap = draws.chance(0.5, wanted)[:, None]
    pairs = np.stack(np.divmod(numbers, n), axis=1)
    return np.where(swap, pairs[:, ::-1], pairs)


def single_hop(compounds: int, outcomes: int, singles: int, pairs: int, seed: int) -> Graph:
    """`single`: one edge for every compound, one for every outcome still uncovered, then random ones up to
    `singles`, none twice. `pair`: distinct compound pairs, each to a random outcome.

    Raises:
        UsageError: when `singles` is too small to cover everything, or more edges than can exist are asked for.
    """
    draws = Draws(seed, "single-hop")
    first = draws.below(outcomes, compounds)
    uncovered = np.setdiff1d(np.arange(outcomes), first)
    edges = np.concatenate(
        [np.arange(compounds) * outcomes + first, draws.below(compounds, len(uncovered)) * outcomes + uncovered]
    )
    if len(edges) > singles:
        raise UsageError(f"{singles} single edges cannot cover {compounds} compounds and {outcomes} outcomes")
    more = _distinct(
        lambda n: draws.below(compounds * outcomes, n),
        singles - len(edges),
        compounds * outcomes,
        edges,
        "single edges",
    )
    single = np.stack(np.divmod(np.concatenate([edges, more]), outcomes), axis=1)
    pair = _pairs(compounds, pairs, draws, "compound pairs")
    return {"single": single, "pair": np.column_stack([pair, draws.below(outcomes, pairs)])}


def two_hop(compounds: int, mediators: int, outcomes: int, joins: int, seed: int) -> Graph:
    """`step`: every mediator gets its own compound, every other compound a random mediator. `join`:
    distinct mediator pairs, one for every outcome first, the others to random outcomes. `chain`: for every
    join, all pairs of compounds that cause its two mediators.

    Raises:
        UsageError: when there are fewer compounds than mediators, or fewer joins than outcomes.
    """
    if mediators > compounds:
        raise UsageError(f"{compounds} compounds cannot give each of {mediators} mediators its own compound")
    if outcomes > joins:
        raise UsageError(f"{joins} pair edges cannot cover {outcomes} outcomes")
    draws = Draws(seed, "two-hop")
    order = np.concatenate([draws.permutation(mediators), draws.below(mediators, compounds - mediators)])
    step = np.column_stack([draws.permutation(compounds), order])
    ends = np.concatenate([draws.permutation(outcomes), draws.below(outcomes, joins - outcomes)])
    join = np.column_stack([_pairs(mediators, joins, draws, "mediator pairs"), ends])
    return {"step": step, "join": join, "chain": _chains(step, join, mediators)}


def _chains(step: np.ndarray, join: np.ndarray, mediators: int) -> np.ndarray:
    """int64[chains, 5]: the Cartesian product of the compounds of each join's mediators."""
    by_mediator: list[list[int]] = [[] for _ in range(mediators)]
    for compound, mediator in step.tolist():
        by_mediator[mediator].append(compound)
    chains = [(a1, a2, b1, b2, c) for b1, b2, c in join.tolist() for a1 in by_mediator[b1] for a2 in by_mediator[b2]]
    return np.array(chains, np.int64)
