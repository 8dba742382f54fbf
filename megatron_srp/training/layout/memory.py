"""How much memory the fullest GPU of a layout needs: an estimate, from formulas and not from a run.

    estimate = estimate_memory(preset, layout)
    estimate.total, estimate.fits(80 * GIB)        # bytes; bool

What is counted, per parameter (Megatron's guide to its distributed optimizer): bf16 weight 2 bytes, fp32
gradient 4, and fp32 weight and two Adam moments 12, which the distributed optimizer divides by DP (those of experts
by the ranks that hold the same ones). Tokens are taken to be spread evenly over experts. Activations
are the tensors that the backward pass of a layer needs, counted one by one as Korthikanti et al. do it
(arXiv 2205.05198, section 4), with what differs here: flash attention keeps no scores, SwiGLU has two input
matrices, and there is no dropout. `tools/gpu_check.sh` measures the real peak next to this estimate.
"""

from dataclasses import dataclass
from typing import NamedTuple

from megatron_srp.training.flags.model_preset import ModelPreset
from megatron_srp.training.layout.layouts import Layout

GIB = 2**30
H100_MEMORY = 79 * GIB  # what an "80 GB" card offers
# CUDA context, NCCL's buffers and cuBLAS' workspaces; and what the allocator cannot hand out again in one piece.
RESERVED = 4 * GIB
FRAGMENTATION = 0.05
# Megatron pads the vocabulary to a multiple of this (--make-vocab-size-divisible-by) x TP.
VOCAB_MULTIPLE = 128


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the fullest GPU, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def allocated(self) -> float:
        """What tensors take: the figure that PyTorch reports as the most allocated."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    @property
    def total(self) -> float:
        """All of it, with what CUDA and the allocator take."""
        return self.allocated * (1 + FRAGMENTATION) + RESERVED

    def fits(self, memory: float = H100_MEMORY) -> bool:
        return self.total <= memory

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "activations", "logits")
        sizes = ", ".join(f"{part} {getattr(self, part) / GIB:.1f}" for part in parts)
        return f"{self.total / GIB:.1f} GiB of {H100_MEMORY / GIB:.0f} ({sizes}, the rest CUDA and fragmentation)"


def estimate_memory(preset: ModelPreset, layout: Layout, precision: str = "bf16") -> MemoryEstimate:
    """The fuller of the first and the last pipeline stage; a stage between them holds less.

    Args:
        precision: of `--srp-precision`.
    """
    ends = (True,) if layout.pipeline == 1 else (True, False)
    return max((_stage(preset, layout, precision, first) for first in ends), key=lambda stage: stage.total)


def padded_vocab_size(preset: ModelPreset, layout: Layout) -> int:
    multiple = VOCAB_MULTIPLE * layout.tensor
    return -(-preset.vocab_size // multiple) * multiple


class StageParams(NamedTuple):
    """Parameters of a stage on one rank."""

    shared: float  # without those of experts
    experts: float
    matrices: float  # of all layers, experts included

    @property
    def total(self) -> float:
        return self.shared + self.experts


def stage_params(preset: ModelPreset, layout: Layout) -> StageParams:
    """Parameters of the first or last stage on one rank."""
    layers = preset.num_layers / layout.pipeline
    mlps = layers * preset.num_mlps * preset.num_mlp_params
    experts = mlps / layout.expert if preset.experts else 0.0
    matrices = (layers * preset.num_attention_params + (0 if preset.experts else mlps)) / layout.tensor
    whole = layers * preset.num_layer_whole_params + preset.hidden_size / layout.pipeline
    embedding = padded_vocab_size(preset, layout) * preset.hidden_size / layout.tensor
    # A pipeline has the embedding in its first stage and the output matrix, tied or not, in its last.
    copies = 1 if layout.pipeline > 1 or preset.tied_embeddings else 2
    return StageParams(matrices + whole + copies * embedding, experts, matrices + experts)


def _stage(preset: ModelPreset, layout: Layout, precision: str, first: bool) -> MemoryEstimate:
    params = stage_params(preset, layout)
    bf16 = preset.recipe.bf16 or precision != "bf16"
    weight_bytes, master_bytes = (2, 12) if bf16 else (4, 8)
    has_logits = layout.pipeline == 1 or not first
    return MemoryEstimate(
        weights=weight_bytes * params.total + _fp8_copies(precision) * params.matrices,
        gradients=4 * params.total,
        optimizer=master_bytes * (params.shared / layout.data + params.experts / layout.expert_data),
        activations=_activations(preset, layout, precision, first) * (1 if bf16 else 2),
        logits=_logits(preset, layout) if has_logits else 0,
    )


def _fp8_copies(precision: str) -> int:
    # Hopper's FP8 matrix units want both operands in one order, so Transformer Engine keeps a weight twice, 1 byte
    # each. With the parameter gather these two take the place of the bf16 weight; without, they come on top.
    return 2 if precision == "fp8-blockwise" else 0


def layer_activations(preset: ModelPreset, layout: Layout, precision: str = "bf16") -> float:
    """Bytes that one layer keeps of one micro-batch for the backward pass."""
    h, q, kv, f = preset.hidden_size, preset.query_size, preset.kv_size, preset.ffn_hidden_size
    linear_input = 2 if precision == "bf16" else 1  # bytes of an element of what a linear layer keeps
    # The inputs of both norms and their outputs, which the matrices after them keep.
    whole = 2 * (2 * h) + 2 * (linear_input * h)
    # Query, keys, values and output of attention; SwiGLU's two inputs; the last matrix' input.
    sharded = 2 * (q + 2 * kv + q)
    mlp = 2 * (2 * f) + linear_input * f
    if preset.experts:  # each has its own copy of the token, and of what becomes of it
        mlp = preset.experts.per_token * (mlp + linear_input * h + 2 * h)
    sharded += mlp
    if precision != "bf16":
        sharded += q  # attention's output once more, in FP8, for the matrix after it
    # Sequence parallelism, which comes with TP, shards the rest too.
    return _tokens(preset, layout) * (whole + sharded) / layout.tensor


def _tokens(preset: ModelPreset, layout: Layout) -> int:
    return layout.micro_batch * preset.recipe.seq_length


def _activations(preset: ModelPreset, layout: Layout, precision: str, first: bool) -> float:
    layers = preset.num_layers / layout.pipeline
    layer = layer_activations(preset, layout, precision)
    kept, at_once = layer, 0.0
    if layout.recompute:  # only each layer's input, and one layer whole while it is recomputed
        kept, at_once = 2 * _tokens(preset, layout) * preset.hidden_size / layout.tensor, layer
    return layers * kept * _in_flight(preset, layout, first) + at_once


def _in_flight(preset: ModelPreset, layout: Layout, first: bool) -> float:
    """Micro-batches whose activations a stage holds at once (1F1B schedule; section 4.2 of the paper)."""
    if not first:
        return 1
    passes, pp = layout.micro_batches(preset), layout.pipeline
    if layout.virtual > 1:
        return min(passes, pp * (1 + (pp - 1) / (pp * layout.virtual)))
    return min(passes, pp)


def _logits(preset: ModelPreset, layout: Layout) -> float:
    # bf16 logits, their fp32 softmax, and the bf16 gradient; and the final norm's input and output.
    vocab = padded_vocab_size(preset, layout) / layout.tensor
    return _tokens(preset, layout) * (8 * vocab + 4 * preset.hidden_size / layout.tensor)
