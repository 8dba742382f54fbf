"""Shards of conversations as one set to train on, epoch by epoch, packed to the sequence length.

The content of sample `i` of a run depends only on the shards, the sequence length and the seed, so that a
stopped run can resume in the middle of an epoch, on any number of ranks.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_srp.errors import InputError, UsageError
from megatron_srp.sft.packing import Packs, pack
from megatron_srp.sft.shard import SftShard, find_sft_manifest


@dataclass(frozen=True, slots=True)
class Source:
    """A shard, and how often an epoch uses each of its conversations: 1 is once, 0.5 is half of them, 2 is twice."""

    prefix: str
    share: float = 1.0


class TrainingSet:
    """The conversations of all sources.

    Args:
        sources: at least one.
        seq_length: tokens of a training sequence; a conversation of K tokens takes K - 1 of its positions, since
            its first token is never a label and its last never an input.
        seed: random seed.

    Attributes:
        sizes: int64[N], positions that each conversation takes.
        manifests: of the shards, in the same order.

    Raises:
        InputError, UsageError: when a shard cannot be trained on at this length.
    """

    def __init__(self, sources: Sequence[Source], seq_length: int, seed: int) -> None:
        self.sources, self.seq_length, self.seed = tuple(sources), seq_length, seed
        self.shards = [SftShard(source.prefix) for source in sources]
        self.manifests = [_checked_manifest(source) for source in sources]
        for shard, source in zip(self.shards, sources, strict=True):
            _check_lengths(shard.tokens.lengths, source.prefix, seq_length)
        self.sizes = np.concatenate([shard.tokens.lengths for shard in self.shards]).astype(np.int64) - 1
        self._first = np.cumsum([0, *map(len, self.shards)])
        self._first_epoch: Packs | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask uint8, both [K], of conversation `i`."""
        shard = int(np.searchsorted(self._first, i, "right")) - 1
        return self.shards[shard][i - int(self._first[shard])]

    def epoch(self, number: int) -> Packs:
        """The packs of epoch `number`, from 0; the first is cached, as it has several callers."""
        if number > 0:
            return self._pack(number)
        if self._first_epoch is None:
            self._first_epoch = self._pack(0)
        return self._first_epoch

    def _pack(self, number: int) -> Packs:
        rng = np.random.RandomState([self.seed, number])
        drawn = np.concatenate([self._draw(k, rng) for k in range(len(self.sources))])
        if not len(drawn):
            shares = ", ".join(f"{source.share:g} of {source.prefix}" for source in self.sources)
            raise UsageError(f"--srp-sft: an epoch of {shares} has no conversations; pass larger shares")
        return pack(drawn, self.sizes[drawn], self.seq_length, rng)

    def _draw(self, k: int, rng: np.random.RandomState) -> np.ndarray:
        own = np.arange(self._first[k], self._first[k + 1])
        times, rest = divmod(self.sources[k].share, 1.0)
        some = rng.permutation(own)[: round(rest * len(own))]
        return np.concatenate([np.tile(own, int(times)), some])

    @property
    def learned_share(self) -> float:
        """The share of all tokens that is learned."""
        learned = sum(m["sft"]["tokens_learned"] * s.share for m, s in zip(self.manifests, self.sources, strict=True))
        tokens = sum(len(d.mask) * s.share for d, s in zip(self.shards, self.sources, strict=True))
        return float(learned / tokens)

    def describe(self) -> str:
        """A line for the user on how the first epoch is packed."""
        packs = self.epoch(0)
        full = self.sizes[packs.items].sum() / (len(packs) * self.seq_length)
        return (
            f"{len(packs.items):,} examples in {len(packs):,} sequences of {self.seq_length:,} an epoch "
            f"({len(packs.items) / len(packs):.1f} in each, {full:.1%} full); {self.learned_share:.1%} of the tokens "
            "are learned"
        )


class Sequences:
    """The training sequences of a run, by number: those of epoch 0, of epoch 1, and so on.

    Args:
        training_set: what is packed.
        count: number of sequences.
        epochs: sequences after this many epochs are empty; None continues with further epochs.
        period: start over after this many sequences, as each evaluation does; None for never.
    """

    def __init__(
        self, training_set: TrainingSet, count: int, epochs: int | None = None, period: int | None = None
    ) -> None:
        self.training_set, self._count = training_set, count
        self._num_epochs, self._period = epochs, period
        self._first = [0]  # first sequence of each epoch packed so far, and the first that is not packed
        self._recent: dict[int, Packs] = {}  # epochs; the workers of a loader are never further apart than two

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> np.ndarray:
        """Numbers int64 of the conversations in sequence `i`; none in an empty one."""
        if not 0 <= i < self._count:
            raise IndexError(i)
        i = i % self._period if self._period else i
        while self._first[-1] <= i and self._num_epochs != len(self._first) - 1:
            self._first.append(self._first[-1] + len(self._epoch(len(self._first) - 1)))
        epoch = bisect_right(self._first, i) - 1
        if epoch == self._num_epochs:
            return np.empty(0, np.int64)
        return self._epoch(epoch)[i - self._first[epoch]]

    def _epoch(self, number: int) -> Packs:
        if number not in self._recent:
            self._recent[number] = self.training_set.epoch(number)
            if len(self._recent) > 2:
                del self._recent[next(iter(self._recent))]
        return self._recent[number]


def parse_sources(values: Sequence[str], flag: str) -> list[Source]:
    """`PREFIX ...` or alternating `SHARE PREFIX ...`, as passed to `flag`."""
    shares = [_share(value) for value in values[::2]]
    if len(values) % 2 or not values or None in shares:
        return [Source(prefix) for prefix in values]
    if any(share is None or not 0 < share < 1e6 for share in shares):
        raise UsageError(f"{flag} {' '.join(values)}: a share is how often an epoch uses a shard, and must be above 0")
    return [Source(prefix, share or 0.0) for share, prefix in zip(shares, values[1::2], strict=True)]


def _share(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _checked_manifest(source: Source) -> dict[str, Any]:
    manifest = find_sft_manifest(source.prefix)
    if manifest is None:
        raise InputError(f"{source.prefix}: no .srp.json next to it lists it as conversations; see `srp sft`")
    if not manifest["sft"]["tokens_learned"]:
        raise InputError(f"{source.prefix}: no token has loss: no responses, or all masked; rebuild it")
    return manifest


def _check_lengths(lengths: np.ndarray, prefix: str, seq_length: int) -> None:
    if (lengths < 2).any():
        number = int(np.argmax(lengths < 2))
        raise InputError(f"{prefix}: conversation {number} has {lengths[number]} tokens; damaged, rebuild it")
    longer = lengths > seq_length + 1
    if longer.any():
        raise UsageError(
            f"{prefix}: {int(longer.sum()):,} of {len(lengths):,} conversations are longer than --seq-length "
            f"{seq_length}; the longest needs {int(lengths.max()) - 1}. Pass that, or leave the long ones out with "
            f"`srp sft --seq-length` {seq_length}"
        )
