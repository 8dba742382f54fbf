"""Language models made up from a number: the same context gives the same logits, and nothing is trained.

They write words, open reflections, decide between verdicts with any probability, and break off anywhere. The engine
is the real one; only the pass through a network is replaced.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch

from megatron_srp.generation.engines.hf import generator as hf
from megatron_srp.generation.engines.hf.generator import HFGenerator
from megatron_srp.generation.guard.forced_reflection import reflection_tree
from megatron_srp.generation.guard.vocabulary import CLOSE_MARK, OPEN_MARK, GuardVocabulary
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.verdict_tree import VerdictTree

EOS = 0
PIECES = ["", " river", " kill", ".", " Safe", " Un", "safe", " Contro", "versial", ":", " Violent", " <", "think", ">"]
OPEN, CLOSE = len(PIECES), len(PIECES) + 1
TEXT, HINTED = ReflectionFormat(), ReflectionFormat(hints=True)
SPECIAL = ReflectionFormat(open=OPEN_MARK, close=CLOSE_MARK, special_tokens=True)
# What follows what, more or less: verdicts of one token and of two.
FOLLOWS = {
    OPEN: {" Safe": 9.0, " Un": 8.0, " Contro": 8.0},
    PIECES.index(" Un"): {"safe": 12.0},
    PIECES.index(" Contro"): {"versial": 12.0},
    PIECES.index("safe"): {":": 8.0, "CLOSE": 8.0},
    PIECES.index("versial"): {":": 8.0, "CLOSE": 8.0},
    PIECES.index(":"): {" Violent": 10.0},
    PIECES.index(" Violent"): {"CLOSE": 9.0},
    PIECES.index(" Safe"): {"CLOSE": 10.0},
}


def vocabulary(form: ReflectionFormat) -> GuardVocabulary:
    marks = {OPEN: OPEN_MARK, CLOSE: CLOSE_MARK} if form.special_tokens else {}
    words = [b"", b""] if form.special_tokens else [b" <think>", b" </think>"]
    return GuardVocabulary([*(piece.encode() for piece in PIECES), *words], frozenset({EOS}), marks, form)


class Words:
    """The tokenizer: the longest piece that fits."""

    def __init__(self, form: ReflectionFormat) -> None:
        opening, closing = (form.open, form.close) if form.special_tokens else (" <think>", " </think>")
        pieces = {text: i for i, text in enumerate(PIECES) if text} | {opening: OPEN, closing: CLOSE}
        if form.special_tokens:
            pieces[f" {closing}"] = CLOSE
        self._pieces = sorted(pieces.items(), key=lambda piece: -len(piece[0]))

    def require_eos(self) -> int:
        return EOS

    def encode_inside(self, text: str) -> list[int]:
        found = []
        while text:
            piece, i = next((piece, i) for piece, i in self._pieces if text.startswith(piece))
            found.append(i)
            text = text[len(piece) :]
        return found


class World:
    """What the model thinks: float32[V] logits behind any context."""

    device = torch.device("cpu")

    def __init__(self, number: int) -> None:
        self.number = number

    def logits(self, context: Sequence[int]) -> torch.Tensor:
        rng = random.Random(hash((self.number, *context)))
        found = [rng.gauss(0, 1.5) for _ in range(len(PIECES) + 2)]
        found[OPEN] += 2.0
        for word, more in FOLLOWS.get(context[-1], {}).items():
            found[CLOSE if word == "CLOSE" else PIECES.index(word)] += more + rng.gauss(0, 1.5)
        return torch.tensor(found)


class ScriptedBatch:
    """As `CachedBatch`, of a world."""

    def __init__(self, world: World, n: int) -> None:
        self._world, self._rows = world, [[] for _ in range(n)]

    @property
    def logits(self) -> torch.Tensor:
        return torch.stack([self._world.logits(row) for row in self._rows])

    @property
    def width(self) -> int:
        return max(map(len, self._rows))

    def feed(self, rows, scored=False) -> list:
        self._rows = [[*row, *new] for row, new in zip(self._rows, rows, strict=True)]
        return []

    def keep(self, rows) -> None:
        self._rows = [list(self._rows[i]) for i in rows]

    def join(self, other: "ScriptedBatch") -> None:
        self._rows += other._rows

    def verdicts(self, tree: VerdictTree) -> torch.Tensor:
        return torch.tensor([read_verdicts(self._world, row, tree) for row in self._rows])


def read_verdicts(world: World, row: Sequence[int], tree: VerdictTree) -> list[float]:
    def logprob(at: int, token: int) -> torch.Tensor:
        behind = [tree.ids[i] for i in reversed(tree.ancestors(at))]
        return world.logits([*row, *behind]).log_softmax(-1)[token]

    sums: list[Any] = [sum(logprob(at, token) for at, token in path) for path in tree.reads]
    return torch.stack(sums).softmax(0).tolist()


def scripted_engine(number: int, form: ReflectionFormat = TEXT) -> HFGenerator:
    """The transformers engine on a made-up model; only where `hf.CachedBatch` is `ScriptedBatch`."""
    assert hf.CachedBatch is ScriptedBatch
    return HFGenerator(World(number), vocabulary(form), reflection_tree(form, Words(form)))
