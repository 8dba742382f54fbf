"""Conversations packed into sequences of one length: best fit, the longest first, within shuffled windows.

Packing all of them at once, the longest first, would fill sequences equally well, but similar lengths would
always be combined. Within a window of a shuffled epoch, the combinations differ each time.
"""

from dataclasses import dataclass

import numpy as np

WINDOW = 1024  # conversations


@dataclass(frozen=True, slots=True)
class Packs:
    """P packs of conversations: `items[offsets[p]:offsets[p + 1]]` are those in pack `p`.

    Attributes:
        items: int64[N], each of the packed conversations by its number.
        offsets: int64[P + 1].
    """

    items: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, p: int) -> np.ndarray:
        return self.items[self.offsets[p] : self.offsets[p + 1]]


def pack(items: np.ndarray, sizes: np.ndarray, capacity: int, rng: np.random.RandomState) -> Packs:
    """Pack each of `items` once, in random order, into packs that are in random order too.

    Args:
        items: int64[N], in any order.
        sizes: int64[N], of each item, 1 to `capacity`.
        capacity: size of a pack.
        rng: a RandomState, whose draws stay the same in every release of NumPy: a resumed run needs them.
    """
    shuffled = rng.permutation(len(items))
    packs = _best_fit(shuffled, sizes, capacity)
    order = rng.permutation(len(packs))
    chosen = [packs[p] for p in order]
    offsets = np.cumsum([0, *map(len, chosen)], dtype=np.int64)
    flat = np.fromiter((i for own in chosen for i in own), np.int64, count=int(offsets[-1]))
    return Packs(items[flat], offsets)


def _best_fit(order: np.ndarray, sizes: np.ndarray, capacity: int) -> list[list[int]]:
    packs: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity)]  # packs by the room left in them
    rooms = 0  # bit r is set where with_room[r] has any: bit arithmetic finds the smallest sufficient room
    for begin in range(0, len(order), WINDOW):
        window = order[begin : begin + WINDOW]
        window = window[np.argsort(-sizes[window], kind="stable")]
        for item, size in zip(window.tolist(), sizes[window].tolist(), strict=True):
            enough = rooms >> size
            if enough:
                room = size + (enough & -enough).bit_length() - 1
                pack = with_room[room].pop()
                if not with_room[room]:
                    rooms ^= 1 << room
            else:
                room, pack = capacity, len(packs)
                packs.append([])
            packs[pack].append(item)
            if room > size:
                with_room[room - size].append(pack)
                rooms |= 1 << (room - size)
    return packs
