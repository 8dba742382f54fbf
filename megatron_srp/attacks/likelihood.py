"""How likely a model finds many texts, in batches, with the keys and values of their shared beginning.

prefix = SharedPrefix(network, ids)          # read once
prefix.logits(embeddings, keep)              # N different continuations; the prefix is unchanged
score(network, prompts, continuations)       # finds the shared beginning by itself
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from megatron_srp.generation.engines.hf.batch import cache_argument


@dataclass(frozen=True, slots=True)
class Continuation:
    """C tokens after a prompt, and for which of them their likelihood counts."""

    ids: tuple[int, ...]
    counted: tuple[bool, ...]

    @classmethod
    def of(cls, ids: Sequence[int]) -> "Continuation":
        """All tokens count."""
        return cls(tuple(ids), (True,) * len(ids))


class SharedPrefix:
    """The cached keys and values of a beginning that many texts share.

    Args:
        network: a causal language model of transformers.
        ids: P tokens, possibly none.
    """

    def __init__(self, network: Any, ids: Sequence[int]) -> None:
        self._network, self._argument = network, cache_argument(network)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self.length = len(ids)
        if ids:
            cache = self._new_cache(0)
            with torch.no_grad():
                row = torch.tensor([list(ids)], device=network.device)
                network(input_ids=row, use_cache=True, logits_to_keep=1, **{self._argument: cache})
            self._layers = [(layer.keys, layer.values) for layer in cache.layers]

    def logits(self, embeddings: Tensor, keep: int, padding: Tensor | None = None) -> Tensor:
        """Logits [N, keep, V] of the last `keep` tokens of N texts after the prefix.

        Args:
            embeddings: [N, L, D] of the tokens after the prefix; gradients flow.
            padding: int[N], how many positions on the left of each text are padding.
        """
        n, length = embeddings.shape[:2]
        extra: dict[str, Any] = {}
        if padding is not None and padding.any():
            slots = torch.arange(length, device=embeddings.device)
            real = slots >= padding[:, None]
            seen = torch.ones(n, self.length, dtype=torch.bool, device=embeddings.device)
            extra["attention_mask"] = torch.cat([seen, real], 1).long()
            extra["position_ids"] = (self.length + slots - padding[:, None]).clamp(min=0)
        if self._layers:
            extra[self._argument] = self._new_cache(n)
        found = self._network(inputs_embeds=embeddings, use_cache=bool(self._layers), logits_to_keep=keep, **extra)
        logits: Tensor = found.logits
        return logits

    def _new_cache(self, n: int) -> Any:
        """A cache of the prefix for N texts, which can grow without changing the prefix."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for i, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1), i)
        return cache


def losses(logits: Tensor, continuation: Continuation) -> tuple[Tensor, Tensor]:
    """float32[N], the mean negative log-likelihood of the tokens that count, and bool[N], whether each of them
    is the most likely; of logits [N, C + 1, V] that end at the continuation's last token."""
    labels = torch.tensor(continuation.ids, device=logits.device).expand(len(logits), -1)
    counted = torch.tensor(continuation.counted, device=logits.device)
    before = logits[:, :-1].float()
    each = cross_entropy(before.transpose(1, 2), labels, reduction="none")
    likeliest = (before.argmax(-1) == labels) | ~counted
    return (each * counted).sum(1) / counted.sum(), likeliest.all(1)


def total(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The `losses` of several continuations as those of all together, on the CPU."""
    loss = torch.stack([each for each, _ in found]).sum(0)
    return loss.cpu(), torch.stack([hit for _, hit in found]).all(0).cpu()


@torch.no_grad()
def score(
    network: Any, prompts: Sequence[Sequence[int]], continuations: Sequence[Continuation], batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Of N prompts, the `losses` of each continuation added up, and whether all are the most likely.

    Texts of like length are read together, since padding costs as much as text."""
    shared = _common_beginning(prompts)
    prefix = SharedPrefix(network, prompts[0][:shared])
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    loss, hit = torch.zeros(len(prompts)), torch.ones(len(prompts), dtype=torch.bool)

    def read(rows: list[int]) -> None:
        read_losses = []
        for continuation in continuations:
            texts = [[*prompts[i][shared:], *continuation.ids] for i in rows]
            logits = _read_padded(network, prefix, texts, len(continuation.ids) + 1)
            read_losses.append(losses(logits, continuation))
        loss[rows], hit[rows] = total(read_losses)

    in_batches(read, order, batch_size)
    return loss, hit


def in_batches(read: Callable[[list[int]], None], rows: list[int], batch_size: int) -> int:
    """Read all rows; batches that do not fit the GPU's memory are halved. Returns the size that fits."""
    at = 0
    while at < len(rows):
        try:
            read(rows[at : at + batch_size])
            at += batch_size
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            torch.cuda.empty_cache()
            batch_size //= 2
    return batch_size


def _read_padded(network: Any, prefix: SharedPrefix, texts: list[list[int]], keep: int) -> Tensor:
    width = max(map(len, texts))
    padding = torch.tensor([width - len(text) for text in texts], device=network.device)
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts], device=network.device)
    return prefix.logits(network.get_input_embeddings()(ids), keep, padding)


def _common_beginning(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with; at most all but one of the shortest, so that there is one to read."""
    columns = zip(*rows, strict=False)
    common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return max(0, min(common, min(map(len, rows)) - 1))
