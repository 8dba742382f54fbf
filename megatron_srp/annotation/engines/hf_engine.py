"""transformers as a guard's engine, on a GPU or on CPU.

Segments are packed without padding up to a budget of tokens; the prompts' common prefix is computed once
and its keys and values are shared (`hf_attention`); logits are computed where they are read, at the last
token of each prompt. Work is queued on the GPU batch by batch, and only the end of a call waits for it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from megatron_srp.annotation.engines import Engine, Prompts
from megatron_srp.annotation.engines.hf_attention import NAME, Packing, pack, register, shared_prefix_keys, to_device
from megatron_srp.annotation.engines.hf_loading import (
    check_tokens,
    choose_device,
    choose_dtype,
    load_model,
    weights_revision,
)
from megatron_srp.errors import OutputError

GPU_BATCH_TOKENS = 32_768
CPU_BATCH_TOKENS = 4_096
_FEWEST_TOKENS = 1_024
_Result = TypeVar("_Result")


class HFEngine(Engine):
    """Runs a causal language model of transformers.

    Args:
        model: a folder or a name on the hub, or a loaded model (for benchmarks, with random weights).
        device: "cuda", "cuda:1" or "cpu"; by default a GPU where there is one.
        dtype: "bfloat16" or "float32"; by default bfloat16 on a GPU and float32 on CPU.
        batch_tokens: maximum tokens per forward pass, not counting the shared prefix. It is halved when
            the GPU runs out of memory.
        max_length: maximum tokens in a prompt and its answer; by default the model's context length.
        compile: compile the model with torch.compile, which takes a minute at the start.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    def __init__(
        self,
        model: Any,
        device: str | None = None,
        dtype: str | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        compile: bool = False,
    ) -> None:
        check_tokens(batch_tokens=batch_tokens, max_length=max_length)
        self.device = choose_device(device)
        on_gpu = self.device.type == "cuda"
        register()
        self.model = (
            load_model(model, choose_dtype(dtype or ("bfloat16" if on_gpu else "float32"))).to(self.device).eval()
        )
        self.model.set_attn_implementation(NAME)
        config = self.model.config
        window = getattr(config, "sliding_window", None) or config.max_position_embeddings
        self.max_length = min(max_length or config.max_position_embeddings, config.max_position_embeddings, window)
        self.batch_tokens = batch_tokens or (GPU_BATCH_TOKENS if on_gpu else CPU_BATCH_TOKENS)
        self.revision = weights_revision(model) if isinstance(model, (str, Path)) else ""
        self._forward = torch.compile(self.model, dynamic=True) if compile else self.model
        self._prefix: tuple[bytes, list[tuple[torch.Tensor, torch.Tensor]]] = (b"", [])
        self._lock = threading.Lock()

    def next_token_logprobs(self, prompts: Prompts, candidates: Sequence[int]) -> np.ndarray:
        wanted = to_device(np.array(candidates, np.int64), self.device)

        def run(rows: np.ndarray) -> torch.Tensor:
            return self._prefill(prompts, rows, keep=False)[0].log_softmax(-1)[:, wanted]

        out = np.empty((len(prompts), len(candidates)), np.float32)
        with self._lock, torch.inference_mode():
            for rows, found in self._batches(prompts, run):
                out[rows] = found
        return out

    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: Sequence[int]) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.empty(0, np.int32)] * len(prompts)
        with self._lock, torch.inference_mode():
            for rows, written in self._batches(prompts, lambda r: self._write(prompts, r, max_new_tokens, stop_ids)):
                for row, ids in zip(rows.tolist(), written, strict=True):
                    stop = np.flatnonzero(np.isin(ids, list(stop_ids)))
                    out[row] = ids[: stop[0]] if len(stop) else ids
        return out

    def close(self) -> None:
        self._prefix = (b"", [])
        del self.model, self._forward
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _batches(
        self, prompts: Prompts, run: Callable[[np.ndarray], torch.Tensor]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of the prompts and `run` of them, for batches of at most `batch_tokens` tokens."""
        queued = []
        lengths = np.diff(prompts.rests.offsets)
        order = np.argsort(-lengths, kind="stable")  # sorting by length evens out the GPU's work
        at = 0
        while at < len(order):
            fits = np.cumsum(lengths[order[at:]]) <= self.batch_tokens
            rows = order[at : at + max(int(fits.sum()), 1)]
            try:
                queued.append((rows, run(rows)))
                at += len(rows)
            except torch.cuda.OutOfMemoryError:
                self._shrink(len(rows))
        for rows, result in queued:
            yield rows, result.cpu().numpy()

    def _shrink(self, rows: int) -> None:
        torch.cuda.empty_cache()
        if rows == 1 or self.batch_tokens <= _FEWEST_TOKENS:
            raise OutputError(f"the GPU has too little memory for {rows} prompts; free some, or set max_length")
        self.batch_tokens //= 2

    def _prefix_pool(self, prefix: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of the prefix for each layer, computed when the prefix changes."""
        key = prefix.tobytes()
        if key != self._prefix[0]:
            length = np.array([len(prefix)])
            packing = pack(length, [np.arange(len(prefix))], self.device)
            packing.kept = []
            self._run(prefix, np.arange(len(prefix)), packing, np.array([len(prefix) - 1]), self.model)
            self._prefix = key, packing.kept
        return self._prefix[1]

    def _prefill(self, prompts: Prompts, rows: np.ndarray, keep: bool) -> tuple[torch.Tensor, "_Decoding"]:
        """Logits float32[N, V] after each of the prompts, and the state from which decoding continues."""
        p = len(prompts.prefix)
        lengths = np.diff(prompts.rests.offsets)[rows]
        starts = np.cumsum(lengths) - lengths
        keys = shared_prefix_keys(p, starts, lengths)
        packing = pack(lengths, keys, self.device)
        packing.pool = self._prefix_pool(prompts.prefix) if p else []
        packing.kept = [] if keep else None
        ids = np.concatenate([prompts.rests[row] for row in rows.tolist()])
        positions = np.arange(len(ids)) - np.repeat(starts, lengths) + p
        forward = self.model if keep else self._forward  # `kept` collects keys and values as a side effect
        logits = self._run(ids, positions, packing, starts + lengths - 1, forward)
        return logits, _Decoding(packing, keys, p + lengths)

    def _run(
        self, ids: np.ndarray, positions: np.ndarray, packing: Packing, last: np.ndarray, forward: Any
    ) -> torch.Tensor:
        """Logits float32[len(last), V] at the tokens `last` of the packed `ids`."""
        found = forward(
            input_ids=to_device(ids.astype(np.int64), self.device)[None],
            position_ids=to_device(positions, self.device)[None],
            logits_to_keep=to_device(last, self.device),
            use_cache=False,
            packing=packing,
        )
        return found.logits[0].float()

    def _write(self, prompts: Prompts, rows: np.ndarray, max_new_tokens: int, stop_ids: Sequence[int]) -> torch.Tensor:
        """int64[N, at most max_new_tokens] greedy tokens; what follows a stop token is meaningless."""
        logits, state = self._prefill(prompts, rows, keep=True)
        stops = to_device(np.array(stop_ids, np.int64), self.device)
        written = [logits.argmax(-1)]
        stopped = torch.isin(written[0], stops)
        while len(written) < max_new_tokens and not bool(stopped.all()):
            packing = state.step(self.device)
            found = self._run(written[-1].cpu().numpy(), state.positions, packing, np.arange(len(rows)), self.model)
            written.append(found.argmax(-1))
            stopped |= torch.isin(written[-1], stops)
            state.positions = state.positions + 1
        return torch.stack(written, 1)


@dataclass(slots=True)
class _Decoding:
    """The decoding state of a batch: its packing, int64 rows of each prompt's keys in pool and batch,
    and int64[N] positions of the next tokens."""

    packing: Packing
    keys: list[np.ndarray]
    positions: np.ndarray

    def step(self, device: torch.device) -> Packing:
        """The packing for one more token of each prompt."""
        new, pool = self.packing.kept or [], self.packing.pool
        if pool:
            pairs = zip(pool, new, strict=True)
            new = [(torch.cat([pk, k]), torch.cat([pv, v])) for (pk, pv), (k, v) in pairs]
        rows = len(new[0][0])
        self.keys = [np.append(keys, rows + i) for i, keys in enumerate(self.keys)]
        self.packing = pack(np.ones(len(self.keys), np.int64), self.keys, device)
        self.packing.pool, self.packing.kept = new, []
        return self.packing
