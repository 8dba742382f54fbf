"""Attention over segments packed back to back, with a prefix that all share.

The tokens of a batch are one row [1, T] without padding; the model's dense layers do not care where one
segment ends. Attention does: the keys of segment i are those of the shared prefix, computed once, followed
by its own. transformers lets a model's attention be replaced by name, so every model that goes through that
interface runs packed, with its own weights, norms and rotary embedding.

    T tokens of the batch, N segments, K keys in all, H heads, G key-value heads, D head size

On a GPU it is PyTorch's own FlashAttention for ragged batches: no padding, no mask, and G < H without a copy.
Elsewhere, and in float32, padding and a mask give the same.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

NAME = "megatron_srp_packed"
_MOST_SCORES = 1 << 22  # of a padded product of queries and keys, per head


@dataclass(slots=True)
class Packing:
    """Which keys each segment of a batch sees.

    Attributes:
        query_ends, key_ends: int32[N+1], where the segments' queries and keys begin and end.
        gather: int64[K], for each key its row in the pool followed by the batch's own T rows.
        most_queries, most_keys: of one segment.
        pool: per layer, keys and values [R, G, D] from earlier calls; empty at first.
        kept: where the batch's own keys and values are stored; None discards them.
    """

    query_ends: torch.Tensor
    key_ends: torch.Tensor
    gather: torch.Tensor
    most_queries: int
    most_keys: int
    pool: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None


def pack(queries: np.ndarray, keys: list[np.ndarray], device: torch.device) -> Packing:
    """The packing of N segments with int64[N] `queries`, which are the last of the `keys` they see."""
    counts = np.array([len(k) for k in keys])
    return Packing(
        to_device(_ends(queries), device),
        to_device(_ends(counts), device),
        to_device(np.concatenate(keys), device),
        round_up(int(queries.max())),
        round_up(int(counts.max())),
    )


def shared_prefix_keys(prefix: int, starts: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """The rows of each segment's keys where the pool is the prefix's, `prefix` rows."""
    common = np.arange(prefix)
    own = (np.arange(s, s + n) + prefix for s, n in zip(starts.tolist(), lengths.tolist(), strict=True))
    return [np.concatenate([common, rows]) for rows in own]


def _ends(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def round_up(n: int) -> int:
    """Round up to a power of two: only a few different lengths, so that a model is compiled only a few times."""
    return 1 << max(n - 1, 0).bit_length()


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on `device`; to a GPU from pinned memory, without waiting for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@torch.library.custom_op("megatron_srp::segment_attention", mutates_args=())
def segment_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    most_queries: int,
    most_keys: int,
    scale: float,
) -> torch.Tensor:
    """[T, H, D] from queries [T, H, D] and keys, values [K, G, D]: query q of n in a segment with k keys sees
    the first k - n + q + 1 of them."""
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and flash_works(query.device.index or 0):
        return _flash(query, key, value, query_ends, key_ends, most_queries, most_keys, scale)
    return _padded(query, key, value, query_ends, key_ends, scale)


@segment_attention.register_fake
def _(query: torch.Tensor, *rest: Any) -> torch.Tensor:
    return query.new_empty(query.shape)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    most_queries: int,
    most_keys: int,
    scale: float,
) -> torch.Tensor:
    # Causal is aligned at the last query and the last key, as a leading prefix requires.
    return torch.ops.aten._flash_attention_forward(
        query, key, value, query_ends, key_ends, most_queries, most_keys, 0.0, True, False, scale=scale
    )[0]


def _padded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """The same, by padding the segments to the longest, a few at a time, and masking."""
    out = query.new_empty(query.shape)
    queries, keys = query_ends.diff(), key_ends.diff()
    at = 0
    while at < len(queries):
        most = int(queries[at:].max()) * int(keys[at:].max())
        some = slice(at, at + max(_MOST_SCORES // most, 1))
        n, m = queries[some, None], keys[some, None]
        q_column, k_column = (torch.arange(int(x.max()), device=query.device) for x in (n, m))
        q_rows = (query_ends[some.start : some.start + len(n), None] + q_column).clamp(max=len(query) - 1)
        k_rows = (key_ends[some.start : some.start + len(n), None] + k_column).clamp(max=len(key) - 1)
        # Query i of n sees the first m - n + i + 1 keys.
        mask = k_column <= (m - n + q_column)[:, :, None]
        q, k, v = (x.transpose(1, 2) for x in (query[q_rows], key[k_rows], value[k_rows]))
        found = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None], scale=scale, enable_gqa=True
        )
        real = q_column < n
        out[q_rows[real]] = found.transpose(1, 2)[real]
        at = some.stop
    return out


_flash_found: dict[int, bool] = {}


def flash_works(device: int) -> bool:
    """Whether FlashAttention of this PyTorch on this GPU matches the padded result; tried once."""
    if device not in _flash_found:
        _flash_found[device] = _try_flash(torch.device("cuda", device))
    return _flash_found[device]


def _try_flash(device: torch.device) -> bool:
    generator = torch.Generator(device).manual_seed(0)

    def random(rows: int, heads: int) -> torch.Tensor:
        return torch.randn(rows, heads, 128, device=device, dtype=torch.bfloat16, generator=generator)

    q_ends = torch.tensor([0, 5, 70], dtype=torch.int32, device=device)
    k_ends = torch.tensor([0, 15, 170], dtype=torch.int32, device=device)
    q, k, v = random(70, 4), random(170, 2), random(170, 2)
    try:
        found = _flash(q, k, v, q_ends, k_ends, 128, 256, 0.1)
    except (RuntimeError, TypeError):  # no kernel for this GPU, or another signature
        return False
    return bool(torch.allclose(found.float(), _padded(q, k, v, q_ends, k_ends, 0.1).float(), atol=3e-2))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packing: Packing | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: query [1, H, T, D], key and value [1, G, T, D] to [1, T, H, D]."""
    if packing is None or softcap is not None:
        raise NotImplementedError("packed attention needs a packing, and knows no softcap")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if packing.kept is not None:
        packing.kept.append((k, v))
    if packing.pool:
        earlier_k, earlier_v = packing.pool[module.layer_idx]  # type: ignore[index]
        k, v = torch.cat([earlier_k, k]), torch.cat([earlier_v, v])
    k, v = k.index_select(0, packing.gather), v.index_select(0, packing.gather)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = segment_attention(
        q, k, v, packing.query_ends, packing.key_ends, packing.most_queries, packing.most_keys, scale
    )
    return out[None], None


def register() -> None:
    """Register the attention with transformers as `NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
