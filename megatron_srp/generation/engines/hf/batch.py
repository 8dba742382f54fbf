"""A batch of texts that a transformers model has read: keys and values, and what comes next."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from megatron_srp.generation.guard.policy import TokenScore
from megatron_srp.verdict_tree import VerdictTree

# The mask value for what a token does not see, close to minus infinity: minus infinity itself would give NaN for
# padding, which sees nothing, and near the smallest float32 some kernels overflow.
_HIDDEN = -1e30
TOP = 5  # most likely tokens that a score names


def cache_argument(model: Any) -> str:
    """The name under which a model takes its cache."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"  # before transformers 5.2x


class CachedBatch:
    """N texts that grow together.

    Attributes:
        logits: float32[N, V] after each text's last token.
    """

    def __init__(self, model: Any, n: int) -> None:
        from transformers import DynamicCache

        self._model, self._device = model, model.device
        self._cache = DynamicCache()
        self._cache_name = cache_argument(model)
        self._seen = torch.zeros(n, 0, dtype=torch.bool, device=self._device)  # slots that hold tokens
        self._lengths = torch.zeros(n, dtype=torch.long, device=self._device)
        self.logits = torch.empty(0)

    @property
    def width(self) -> int:
        """Slots of each text in the cache."""
        return self._seen.shape[1]

    def feed(self, rows: Sequence[Sequence[int]], scored: bool = False) -> list[list[TokenScore | None]]:
        """Append tokens to each text; some may get none, except in the first call.

        Returns:
            With `scored`, how likely each of the tokens was; None for the first of a text.
        """
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=self._device)
        counts = torch.tensor([len(row) for row in rows], device=self._device)
        real = torch.arange(width, device=self._device) >= width - counts[:, None]
        positions = (self._lengths[:, None] + real.cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(width, width, dtype=torch.bool, device=self._device).tril()
        found = self._run(ids, positions, real[:, None] & causal, keep=0 if scored else 1)
        logits = found[:, -1]
        scores = self._scores(rows, found) if scored else []
        self._seen = torch.cat([self._seen, real], 1)
        self._lengths = self._lengths + counts
        self.logits = torch.where(counts[:, None] > 0, logits, self.logits) if len(self.logits) else logits
        return scores

    def _scores(self, rows: Sequence[Sequence[int]], found: torch.Tensor) -> list[list[TokenScore | None]]:
        """Of new tokens, by float32[N, Q, V] logits after each of them and after the padding before them."""
        last = self.logits if len(self.logits) else torch.full_like(found[:, 0], torch.nan)
        scores = []
        for row, before, after in zip(rows, last, found, strict=True):
            logits = torch.cat([before[None], after[len(after) - len(row) : -1]])[: len(row)]
            scores.append(_row_scores(row, logits.log_softmax(-1)))
        return scores

    def score(self, row: int, token: int) -> TokenScore:
        """How likely that token is as the next one of a text."""
        (found,) = _row_scores([token], self.logits[row : row + 1].log_softmax(-1))
        assert found
        return found

    def verdicts(self, tree: VerdictTree) -> torch.Tensor:
        """float32[N, 3] probabilities of the verdicts, were each text to continue with a reflection.

        One pass over the tree's tokens, if it has any, which are then removed from the cache."""
        last = self.logits.log_softmax(-1)
        read = self._read(tree) if tree.ids else None
        sums = []
        for path in tree.reads:
            steps = [last[:, token] if read is None or at < 0 else read[:, at, token] for at, token in path]
            sums.append(torch.stack(steps).sum(0))
        return torch.stack(sums, 1).softmax(-1)

    def _read(self, tree: VerdictTree) -> torch.Tensor:
        """float32[N, Q, V] log-probabilities after each of the tree's Q tokens."""
        q, n = len(tree.ids), len(self._seen)
        sees = torch.zeros(q, q, dtype=torch.bool, device=self._device)
        for i in range(q):
            sees[i, tree.ancestors(i)] = True
        ids = torch.tensor(tree.ids, device=self._device).expand(n, q)
        positions = self._lengths[:, None] + sees.sum(1) - 1
        logprobs = self._run(ids, positions, sees.expand(n, q, q), keep=0).log_softmax(-1)
        self._cache.crop(-q)
        return logprobs

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these texts only; one that is named twice is kept twice."""
        chosen = torch.tensor(rows, device=self._device)
        self._cache.batch_select_indices(chosen)
        self._seen, self._lengths, self.logits = self._seen[chosen], self._lengths[chosen], self.logits[chosen]
        self._resize(self._seen.shape[1] - int(self._seen.any(0).int().argmax()))

    def join(self, other: "CachedBatch") -> None:
        """Append the texts of `other` after these; `other` must not be used afterwards."""
        width = max(self._seen.shape[1], other._seen.shape[1])
        for batch in (self, other):
            batch._resize(width)
        for own, new in zip(self._cache.layers, other._cache.layers, strict=True):
            own.keys, own.values = torch.cat([own.keys, new.keys]), torch.cat([own.values, new.values])
        self._seen = torch.cat([self._seen, other._seen])
        self._lengths = torch.cat([self._lengths, other._lengths])
        self.logits = torch.cat([self.logits, other.logits])

    def _resize(self, width: int) -> None:
        """Add empty slots on the left, or remove some empty ones."""
        more = width - self._seen.shape[1]
        if not more:
            return
        for layer in self._cache.layers:
            layer.keys, layer.values = (pad(x, (0, 0, more, 0)) for x in (layer.keys, layer.values))
        self._seen = pad(self._seen, (more, 0))

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, sees: torch.Tensor, keep: int) -> torch.Tensor:
        """Logits float32[N, keep or Q, V] of Q new tokens; `sees` bool[N, Q, Q] is what they see of each other."""
        n, q = ids.shape
        visible = torch.cat([self._seen[:, None].expand(n, q, -1), sees], 2)
        dtype = self._model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=self._device)
        mask.masked_fill_(~visible, max(torch.finfo(dtype).min, _HIDDEN))
        found = self._model(
            input_ids=ids,
            attention_mask=mask[:, None],
            position_ids=positions,
            use_cache=True,
            logits_to_keep=keep,
            **{self._cache_name: self._cache},
        )
        return found.logits.float()


def _row_scores(row: Sequence[int], logprobs: torch.Tensor) -> list[TokenScore | None]:
    """Of a row's tokens, by float32[len(row), V] log-probabilities before each; NaN before a text's first."""
    values, ids = logprobs.topk(min(TOP, logprobs.shape[-1]))
    own = logprobs[range(len(row)), list(row)].tolist()
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
    return [None if math.isnan(one) else TokenScore(one, top) for one, top in zip(own, tops, strict=True)]
