"""MedSafetyWorld's names and graphs: everything the paper says of how they are built."""

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.world import entities
from megatron_srp.medsafetyworld.world.draws import Draws
from megatron_srp.medsafetyworld.world.entities import REAL_DRUGS, make_entities
from megatron_srp.medsafetyworld.world.graph import single_hop, two_hop

SEEDS = st.integers(0, 2**63 - 1)


def rows(array: np.ndarray) -> list[tuple[int, ...]]:
    return list(map(tuple, array.tolist()))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 40), st.integers(1, 30), SEEDS)
def test_single_hop(data, compounds, outcomes, seed):
    singles = data.draw(st.integers(min(compounds + outcomes, compounds * outcomes), compounds * outcomes))
    pairs = data.draw(st.integers(0, compounds * (compounds - 1) // 2))
    graph = single_hop(compounds, outcomes, singles, pairs, seed)
    single, pair = rows(graph["single"]), rows(graph["pair"])
    assert len(set(single)) == len(single) == singles
    assert [a for a, _ in single[:compounds]] == list(range(compounds)), "one edge for every compound first"
    covered = {c for _, c in single[:compounds]}
    late = outcomes - len(covered)
    assert {c for _, c in single[compounds : compounds + late]} == set(range(outcomes)) - covered
    assert len({frozenset(edge[:2]) for edge in pair}) == len(pair) == pairs
    assert all(a1 != a2 and max(a1, a2) < compounds and 0 <= c < outcomes for a1, a2, c in pair)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(3, 30), st.integers(0, 20), st.integers(1, 20), SEEDS)
def test_two_hop(data, mediators, more, outcomes, seed):
    compounds, most = mediators + more, mediators * (mediators - 1) // 2
    outcomes = min(outcomes, most)
    joins = data.draw(st.integers(outcomes, most))
    graph = two_hop(compounds, mediators, outcomes, joins, seed)
    step, join, chain = (rows(graph[kind]) for kind in ("step", "join", "chain"))
    assert {b for _, b in step[:mediators]} == set(range(mediators)), "every mediator gets a compound first"
    assert sorted(a for a, _ in step) == list(range(compounds)), "which is its own"
    assert {c for *_, c in join[:outcomes]} == set(range(outcomes)), "every outcome gets a pair first"
    assert len({frozenset(edge[:2]) for edge in join}) == len(join) == joins
    assert all(b1 != b2 for b1, b2, _ in join)
    expected = [
        (a1, a2, b1, b2, c)
        for (b1, b2, c), (a1, x), (a2, y) in product(join, step, step)
        if x == b1 and y == b2
    ] if joins * compounds**2 < 100_000 else None  # fmt: skip
    if expected is not None:
        assert Counter(chain) == Counter(expected)
    assert all(a1 != a2 for a1, a2, *_ in chain)
    assert len(set(chain)) == len(chain)


def test_random_edges_are_random():
    """Every outcome is about as often the end of an edge, and pairs come in both orders."""
    graph = single_hop(1000, 20, 4000, 4000, 0)
    for kind in graph:
        counts = np.bincount(graph[kind][:, -1], minlength=20)
        assert counts.min() > 130 and counts.max() < 270
    assert 1800 < (graph["pair"][:, 0] < graph["pair"][:, 1]).sum() < 2200


def test_seeds():
    one, same, other = (single_hop(50, 10, 200, 30, seed) for seed in (1, 1, 2))
    assert all((one[kind] == same[kind]).all() for kind in one)
    assert any((one[kind] != other[kind]).any() for kind in one)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: single_hop(10, 5, 9, 1, 0), "9 single edges cannot cover 10 compounds and 5 outcomes"),
        (lambda: single_hop(10, 5, 51, 1, 0), "51 different single edges asked for, but there are only 50"),
        (lambda: single_hop(4, 5, 20, 7, 0), "7 different compound pairs asked for, but there are only 6"),
        (lambda: two_hop(4, 5, 2, 3, 0), "4 compounds cannot give each of 5 mediators its own"),
        (lambda: two_hop(9, 5, 4, 3, 0), "3 pair edges cannot cover 4 outcomes"),
        (lambda: two_hop(9, 3, 1, 4, 0), "4 different mediator pairs asked for, but there are only 3"),
        (lambda: make_entities(20_000, 0, 5, 0.4, 0), "20000 compounds: the morphemes make 16560 names"),
    ],
)
def test_worlds_that_cannot_be(make, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        make()


def test_names():
    world = make_entities(16_560, 1_000, 2_400, 0.4, 0)
    names = [*world.compounds, *world.mediators, *world.outcomes]
    assert len(set(names)) == len(names)
    known = set(names)
    for name in names:
        inside = {name[i:j] for i in range(len(name)) for j in range(i + 4, len(name) + 1)} - {name}
        assert not inside & known, f"{name} contains another name"
    assert not known & REAL_DRUGS
    assert not [name for name in world.compounds if re.search("[^aeiou]{5}|[aeiou]{3}", name)], "hard to say"
    assert all(re.fullmatch("[a-z]+( [a-z]+){3}", name) for name in world.mediators)
    assert all(re.fullmatch("[a-z]+( [a-z]+){2}", name) for name in world.outcomes)
    assert world.unsafe.sum() == 960


def test_real_drugs_are_left_out(monkeypatch):
    first = make_entities(5, 0, 5, 0.4, 0).compounds
    monkeypatch.setattr(entities, "REAL_DRUGS", REAL_DRUGS | {first[1]})
    now = make_entities(5, 0, 5, 0.4, 0).compounds
    assert now[:4] == [first[0], *first[2:]]


def test_draws_do_not_change():
    """Streams, not numpy's Generator: these numbers hold for every release."""
    draws = Draws(7, "a", 1)
    assert draws.below(1000, 5).tolist() == GOLDEN_BELOW
    assert draws.permutation(6).tolist() == GOLDEN_PERMUTATION
    assert Draws(7, "a", 2).below(1000, 5).tolist() != GOLDEN_BELOW
    assert abs(Draws(0).chance(0.3, 100_000).mean() - 0.3) < 0.01
    assert np.bincount(Draws(1).below(3, 90_000)).tolist() == pytest.approx([30_000] * 3, abs=900)


GOLDEN_BELOW = [619, 26, 71, 197, 378]
GOLDEN_PERMUTATION = [2, 3, 0, 4, 1, 5]
