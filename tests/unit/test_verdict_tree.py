"""The tree of the verdicts' tokens: what is given, what is read, and where."""

import random

import pytest

from megatron_srp.verdict_tree import VerdictTree, common_beginning, until_apart

SAFE, UN, UNSAFE, SURE, ROOT, CONT, AL = 1, 2, 3, 4, 5, 6, 7


def test_verdicts_that_part_at_once_need_no_tokens_of_their_own():
    tree = VerdictTree.of(until_apart([[SAFE], [CONT, AL], [UNSAFE]]))
    assert tree.ids == () and tree.depth == 0
    assert tree.reads == (((-1, SAFE),), ((-1, CONT),), ((-1, UNSAFE),))
    assert tree.tokens_at == {-1: [SAFE, UNSAFE, CONT]}
    assert tree.path_to(-1) == []


def test_what_all_begin_with_is_given_and_a_shared_token_is_read_once():
    tree = VerdictTree.of([[ROOT, SAFE], [ROOT, UN, SAFE], [ROOT, UN, SURE]])
    assert tree.ids == (ROOT, UN) and tree.parents == (-1, 0)
    assert tree.reads == (((0, SAFE),), ((0, UN), (1, SAFE)), ((0, UN), (1, SURE)))
    assert tree.tokens_at == {0: [SAFE, UN], 1: [SAFE, SURE]}
    assert tree.path_to(1) == [ROOT, UN] and tree.depth == 2


@pytest.mark.parametrize("paths", [[[1], [1]], [[1, 2], [1]], [[1], [2], [2, 3]], [[], [1]]])
def test_tokens_that_do_not_tell_verdicts_apart(paths):
    with pytest.raises(ValueError, match="begins with all of another"):
        VerdictTree.of(until_apart(paths))


def test_every_path_is_read_whole():
    rng = random.Random(0)
    for _ in range(300):
        paths = [[rng.randrange(3) for _ in range(rng.randrange(1, 6))] for _ in range(rng.randrange(2, 5))]
        try:
            tree = VerdictTree.of(paths)
        except ValueError:
            continue
        root = common_beginning(paths)
        for path, reads in zip(paths, tree.reads, strict=True):
            assert root + [token for _, token in reads] == path
            assert [tree.path_to(at) for at, _ in reads] == [path[:end] for end in range(len(root), len(path))]
        for cut, path in zip(until_apart(paths), paths, strict=True):
            assert path[: len(cut)] == cut
            assert sum(other[: len(cut)] == cut for other in paths) == 1
            assert sum(other[: len(cut) - 1] == cut[:-1] for other in paths) > 1  # no token longer than needed
