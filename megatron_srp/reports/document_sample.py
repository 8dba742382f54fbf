"""Which documents a report shows: drawn so that the rare ones, which readers look for, are included."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from megatron_srp.data.reflection_table import Entry
from megatron_srp.schema import Verdict

_BITS = 63
OTHER = "other categories"
ONLY_SAFE = "only Safe"


class LabelBits:
    """A bit for each verdict and category, so that one number says which a document has.

    Attributes:
        names: of the bits.
        of_entry: uint64[L], the bits of each entry of a table.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        categories = sorted({category for entry in entries for category in entry.label.categories})
        room = _BITS - len(Verdict) - 1
        bits = {name: i for i, name in enumerate([*Verdict, *categories[:room]])}
        if len(categories) > room:
            bits |= dict.fromkeys([OTHER, *categories[room:]], len(bits))
        self.names = [str(name) for name in dict(sorted((bit, name) for name, bit in reversed(bits.items()))).values()]
        self.of_entry = np.zeros(len(entries), np.uint64)
        for i, entry in enumerate(entries):
            for name in (entry.label.verdict, *entry.label.categories):
                self.of_entry[i] |= np.uint64(1 << bits[name])


@dataclass(slots=True)
class DocumentSample:
    """Draws `size` documents: in turn one of each verdict and category, at random among those that have it.

    The draw depends on `seed` and the documents alone, not on the blocks they come in.
    """

    bits: LabelBits
    size: int
    seed: int
    _counts: dict[str, int] = field(default_factory=dict)
    _best: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def add(self, first: int, offsets: np.ndarray, entries: np.ndarray) -> None:
        """Consider documents from `first` on; `offsets` int64[N+1] bound each document's entries."""
        documents = first + np.flatnonzero(np.diff(offsets))
        if not len(documents):
            return
        has = np.bitwise_or.reduceat(self.bits.of_entry[entries], offsets[documents - first])
        keys = _hash(documents, self.seed)
        safe = np.uint64(1 << list(Verdict).index(Verdict.SAFE))
        self._consider(ONLY_SAFE, documents[has == safe], keys[has == safe])
        for bit, name in enumerate(self.bits.names):
            chosen = (has >> np.uint64(bit)) & np.uint64(1) == 1
            self._consider(name, documents[chosen], keys[chosen])

    def _consider(self, name: str, documents: np.ndarray, keys: np.ndarray) -> None:
        """Keep the documents with the smallest keys of those that have `name`."""
        if not len(documents):
            return
        self._counts[name] = self._counts.get(name, 0) + len(documents)
        if name in self._best:
            documents = np.concatenate([self._best[name][0], documents])
            keys = np.concatenate([self._best[name][1], keys])
        if len(keys) > self.size:
            smallest = np.argpartition(keys, self.size - 1)[: self.size] if self.size else np.empty(0, np.int64)
            documents, keys = documents[smallest], keys[smallest]
        self._best[name] = documents, keys

    def documents_with(self) -> dict[str, int]:
        """How many documents have nothing but Safe, each verdict, and each category."""
        return {name: self._counts[name] for name in [ONLY_SAFE, *self.bits.names] if name in self._counts}

    def draw(self) -> list[int]:
        """The documents, in the order of the shard."""
        queues = [documents[np.argsort(keys)].tolist() for documents, keys in self._rarest_first()]
        drawn: dict[int, None] = {}
        while any(queues) and len(drawn) < self.size:
            for queue in queues:
                while queue and queue[0] in drawn:
                    queue.pop(0)
                if queue and len(drawn) < self.size:
                    drawn[queue.pop(0)] = None
        return sorted(drawn)

    def _rarest_first(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self._best[name] for name in sorted(self._best, key=lambda name: (self._counts[name], name))]


def _hash(numbers: np.ndarray, seed: int) -> np.ndarray:
    """uint64: well mixed (splitmix64), and the same on every machine."""
    mixed = numbers.astype(np.uint64) + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
