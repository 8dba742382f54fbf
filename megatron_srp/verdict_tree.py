"""Which tokens represent the verdicts, for any tokenizer: where to read a model's probabilities in a pass or two.

Each verdict is a path of tokens. The common beginning of all paths is the root, which is passed to the model; after it
they diverge. A verdict's probability is the product of the probabilities of its tokens after the root:

    ` <think> Safe`, ` <think> Unsafe`, ...    forced reflection; ` <think>` is the root
    ` Safe`, ` Cont`, ` Unsafe`                a guard's answer after `Safety:`; no root, and one pass

A place is a token after which probabilities are read. It attends to the text and to its own path in the tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, takewhile

Path = Sequence[int]


@dataclass(frozen=True, slots=True)
class VerdictTree:
    """The tokens to append to a text, and where to read the verdicts.

    Attributes:
        ids: Q tokens to append; each comes after its parent.
        parents: for each of them, the index of the token before it; -1 is the text's last token.
        reads: for each verdict, pairs of a place (an index into `ids`, or -1) and the token whose probability
            after it counts.
    """

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    reads: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> "VerdictTree":
        """The tree of one path for each verdict.

        Raises:
            ValueError: when one path begins with all of another: its tokens do not tell the two apart.
        """
        if any(len(common_beginning(pair)) == len(pair[0]) for pair in permutations(paths, 2)):
            raise ValueError("one path of tokens begins with all of another")
        root = len(common_beginning(paths))
        ids, parents, reads = [], [], []
        places: dict[tuple[int, ...], int] = {(): -1}
        for path in paths:
            for end in range(1, len(path)):
                beginning = tuple(path[:end])
                if beginning not in places:
                    ids.append(path[end - 1])
                    parents.append(places[beginning[:-1]])
                    places[beginning] = len(ids) - 1
            reads.append(tuple((places[tuple(path[:end])], path[end]) for end in range(root, len(path))))
        return cls(tuple(ids), tuple(parents), tuple(reads))

    @property
    def root(self) -> tuple[int, ...]:
        """The tokens that all paths begin with."""
        return self.ids[: self.reads[0][0][0] + 1]

    @property
    def depth(self) -> int:
        """The most tokens in a row that a model reads after the text."""
        return max((len(self.ancestors(i)) for i in range(len(self.ids))), default=0)

    @property
    def tokens_at(self) -> dict[int, list[int]]:
        """The distinct tokens that are read at each place, a place before those that follow it."""
        found: dict[int, list[int]] = {}
        for at, token in sorted({read for path in self.reads for read in path}):
            found.setdefault(at, []).append(token)
        return found

    def ancestors(self, i: int) -> list[int]:
        """Token `i` and its ancestors on the path, last first: the part of the tree that it may attend to."""
        found = []
        while i >= 0:
            found.append(i)
            i = self.parents[i]
        return found

    def path_to(self, at: int) -> list[int]:
        """The tokens between the text and what is read at that place."""
        return [self.ids[i] for i in reversed(self.ancestors(at))]


def common_beginning(paths: Sequence[Path]) -> list[int]:
    """The tokens that all paths begin with."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*paths, strict=False))
    return [column[0] for column in columns]


def until_apart(paths: Sequence[Path]) -> list[list[int]]:
    """Each path up to the first token that sets it apart from all others."""
    found = []
    for i, path in enumerate(paths):
        shared = [len(common_beginning([path, other])) for j, other in enumerate(paths) if j != i]
        found.append(list(path[: max(shared) + 1]))
    return found
