"""Floating-point operations per token, and the share of a GPU's peak that a run reaches (MFU).

Per token, forward and backward (the backward pass costs twice the forward):

    6 x parameters of the matrices      a multiply and an add for each, three times; of the experts, those of a token
  + 6 x layers x sequence x queries     attention scores and their sums over values, the causal half of them

The input embedding is a lookup and costs nothing; tied or not, the output matrix counts once. This is the
count of PaLM's appendix B (arXiv 2204.02311) with half the attention, and without the experts' router, as Megatron
counts it too. Recomputation
to save memory is not counted: MFU measures the model's own work.
"""

from megatron_srp.training.flags.model_preset import ModelPreset

# Dense bf16 in FLOP/s, without sparsity, by a part of the device's name in torch: the first
# match counts, so the longer names come first. From NVIDIA's data sheets of each product.
BF16_PEAK = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,  # SXM
    "H200 NVL": 835e12,
    "H200": 989.4e12,
    "GH200": 989.4e12,
    "GB200": 2500e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}
H100 = "NVIDIA H100 80GB HBM3"


def flops_per_token(preset: ModelPreset, seq_length: int | None = None) -> float:
    """FLOP for training on one token in a sequence of `seq_length` (the recipe's by default)."""
    seq_length = seq_length or preset.recipe.seq_length
    mlps = preset.experts.per_token if preset.experts else 1
    layer = preset.num_attention_params + mlps * preset.num_mlp_params
    attention = preset.num_layers * seq_length * preset.query_size
    return 6 * (preset.num_layers * layer + attention) + output_flops(preset)


def output_flops(preset: ModelPreset) -> float:
    """FLOP per token of the output layer alone, which is a part of `flops_per_token`."""
    return 6 * preset.vocab_size * preset.hidden_size


def bf16_peak(device_name: str) -> float | None:
    """The device's dense bf16 peak in FLOP/s; None for a device that is not in the table."""
    return next((peak for part, peak in BF16_PEAK.items() if part in device_name), None)


def add_mfu(line: str, peak: float) -> str:
    """Megatron's line of a step, with the MFU after its throughput. FP8 runs count against bf16 too."""
    start, mark, rest = line.partition("throughput per GPU (TFLOP/s/GPU): ")
    if not mark:
        return line
    figure, _, rest = rest.partition(" |")
    return f"{start}{mark}{figure} | MFU (of bf16 peak): {100e12 * float(figure) / peak:.1f}% |{rest}"
