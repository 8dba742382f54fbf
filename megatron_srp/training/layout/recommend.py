"""The recommended layout for a model size on a number of H100s, and why.

Every layout that is possible and fits in memory, with room to spare, gets an estimated step time; of those within
5% of the shortest, the simplest wins. The estimate is for choosing between layouts, not for planning: it is based
only on the arithmetic, and on the bandwidths in NVIDIA's data sheets for an HGX H100 node with one 400 Gb/s adapter
per GPU.

- compute: FLOP of the step over all GPUs; a third more with recomputation; a little for each layer's kernels,
  which is what makes a small micro-batch slow.
- tensor parallelism: four all-gathers and four reduce-scatters of a micro-batch in every layer, and two
  all-gathers again in the backward pass, not overlapped; inside a node only, hence TP of 8 at most.
- expert parallelism: two all-to-alls of each token's copies for its experts in every layer, and two again in the
  backward pass, not overlapped; inside a node only.
- pipeline: the last stage, which has the output layer too, sets the pace; the bubble, (PP - 1) / (micro-batches x VP)
  of the compute; and what stages send each other.
- data parallelism: fp32 gradients and bf16 parameters; overlapped with one micro-batch, the rest is added.

Context parallelism is not among them: at the presets' 2,048 and 4,096 tokens it would only add communication, and no
layout here uses it (`layouts.WITHOUT_CONTEXT`). If `--seq-length` is larger, tensor parallelism and recomputation
make room, up to a length that the error message names.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.model_preset import ModelPreset
from megatron_srp.training.layout.flops import H100, bf16_peak, flops_per_token, output_flops
from megatron_srp.training.layout.layouts import (
    GPUS_PER_NODE,
    WITHOUT_CONTEXT,
    Layout,
    divisors,
    possible_expert,
    possible_pipeline,
    possible_tensor,
    why_impossible,
)
from megatron_srp.training.layout.memory import H100_MEMORY, MemoryEstimate, estimate_memory, stage_params

NVLINK = 450e9  # bytes/s in one direction
NETWORK = 50e9
EFFICIENCY = 0.5  # of the bf16 peak, while a GPU does not wait
SECONDS_PER_LAYER = 1e-4  # to launch and drain a layer's kernels, forward and backward
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
MAX_PIPELINE = 16
TOLERANCE = 1.05
WORTHWHILE = 0.6  # share of computation in a step below which GPUs are wasted
HEADROOM = 0.9  # share of the memory to use, as the estimate is inexact


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, by cause."""

    compute: float
    tensor: float
    expert: float
    pipeline: float
    data: float

    @property
    def total(self) -> float:
        return self.compute + self.tensor + self.expert + self.pipeline + self.data

    def __str__(self) -> str:
        parts = {"compute": self.compute, "tensor parallelism": self.tensor, "expert parallelism": self.expert}
        parts |= {"pipeline": self.pipeline, "data parallelism": self.data}
        return ", ".join(
            f"{name} {100 * part / self.total:.0f}%" for name, part in parts.items() if part >= 0.005 * self.total
        )


@dataclass(frozen=True)
class Recommendation:
    """A layout, its memory, the parts of its step time, and why it is recommended."""

    layout: Layout
    memory: MemoryEstimate
    step_time: StepTime
    reason: str


def step_time(preset: ModelPreset, layout: Layout) -> StepTime:
    """Estimated seconds of one step."""
    peak = bf16_peak(H100)
    assert peak is not None
    passes = layout.micro_batches(preset)
    tokens = layout.micro_batch * preset.recipe.seq_length  # of a rank's pass
    layers = preset.num_layers / layout.pipeline
    one_pass = tokens * _stage_flops(preset, layout.pipeline) / layout.tensor / (peak * EFFICIENCY)
    one_pass = one_pass * (4 / 3 if layout.recompute else 1) + layers * SECONDS_PER_LAYER
    gathered = 2 * tokens * preset.hidden_size * (layout.tensor - 1) / layout.tensor  # bytes per collective
    one_tensor = layers * 10 * gathered / NVLINK
    copies = 2 * tokens * preset.hidden_size / layout.tensor * (preset.experts.per_token if preset.experts else 0)
    one_expert = layers * 4 * copies * (layout.expert - 1) / layout.expert / NVLINK
    bandwidth = NVLINK if layout.gpus <= GPUS_PER_NODE else NETWORK
    sent = 2 * 2 * tokens * preset.hidden_size / layout.tensor * layout.virtual * (layout.pipeline > 1)  # bytes
    bubble = (layout.pipeline - 1) / layout.virtual * (one_pass + one_tensor + one_expert)
    return StepTime(
        compute=passes * one_pass,
        tensor=passes * one_tensor,
        expert=passes * one_expert,
        pipeline=bubble + passes * sent / NETWORK,
        data=max(0.0, _exchanged(preset, layout) / bandwidth - one_pass),
    )


def _stage_flops(preset: ModelPreset, pipeline: int) -> float:
    """FLOP per token of the last stage, for which the others wait: it has the output layer as well as its layers."""
    output = output_flops(preset)
    return (flops_per_token(preset) - output) / pipeline + output


def _exchanged(preset: ModelPreset, layout: Layout) -> float:
    """Bytes that a rank sends the others that hold the same parameters: fp32 gradients, bf16 parameters."""
    params = stage_params(preset, layout)
    groups = ((params.shared, layout.data), (params.experts, layout.expert_data))
    return sum(6 * count * (ranks - 1) / ranks for count, ranks in groups)


def recommend(preset: ModelPreset, gpus: int, precision: str = "bf16", packed: bool = False) -> Recommendation:
    """The fastest layout by the estimate that fits in an H100's memory.

    Args:
        packed: whether for packed conversations, which pipeline stages pass one sequence at a time (`sft_batch.py`).

    Raises:
        UsageError: if none is possible or fits; the message says what the simplest would need.
    """
    layouts = [layout for layout in _possible(preset, gpus) if _fits(preset, layout, precision)]
    if precision != "bf16":  # `precision.py` refuses the combination
        layouts = [layout for layout in layouts if not (layout.recompute and layout.pipeline > 1)]
    if packed:
        layouts = [layout for layout in layouts if layout.pipeline == 1 or layout.micro_batch == 1]
    if not layouts:
        raise UsageError(_why_none(preset, gpus, precision))
    seconds = {layout: step_time(preset, layout).total / tokens_per_step(preset, layout) for layout in layouts}
    fast = [layout for layout in layouts if seconds[layout] <= TOLERANCE * min(seconds.values())]
    best = min(fast, key=lambda layout: (_complexity(layout), seconds[layout]))
    time, memory = step_time(preset, best), estimate_memory(preset, best, precision)
    return Recommendation(best, memory, time, _reason(preset, best, precision, time))


def _fits(preset: ModelPreset, layout: Layout, precision: str) -> bool:
    return estimate_memory(preset, layout, precision).fits(HEADROOM * H100_MEMORY)


def tokens_per_step(preset: ModelPreset, layout: Layout) -> int:
    return layout.micro_batches(preset) * layout.micro_batch * layout.data * preset.recipe.seq_length


def _complexity(layout: Layout) -> tuple[int, int, int, bool, int]:
    return layout.tensor * layout.pipeline, layout.pipeline, layout.virtual, layout.recompute, layout.expert


def _possible(preset: ModelPreset, gpus: int) -> Iterator[Layout]:
    for tensor in possible_tensor(preset):
        for pipeline in possible_pipeline(preset):
            if tensor > GPUS_PER_NODE or pipeline > MAX_PIPELINE:
                continue
            for virtual in divisors(preset.num_layers // pipeline) if pipeline > 1 else [1]:
                for expert in _expert_sizes(preset):
                    yield from _possible_batches(
                        preset, Layout(gpus=gpus, tensor=tensor, pipeline=pipeline, virtual=virtual, expert=expert)
                    )


def _expert_sizes(preset: ModelPreset) -> list[int]:
    return [expert for expert in possible_expert(preset) if expert <= GPUS_PER_NODE]


def _possible_batches(preset: ModelPreset, layout: Layout) -> Iterator[Layout]:
    for micro_batch in MICRO_BATCHES:
        for recompute in (False, True):
            candidate = replace(layout, micro_batch=micro_batch, recompute=recompute)
            if not why_impossible(preset, candidate):
                yield candidate


def _reason(preset: ModelPreset, best: Layout, precision: str, time: StepTime) -> str:
    alone = Layout(gpus=best.gpus)  # data parallelism only, one sequence at a time
    if best.tensor * best.pipeline * best.expert == 1:
        reason = "data parallelism alone fits, and hides most of its communication"
    elif impossible := why_impossible(preset, alone):
        reason = f"data parallelism alone is not possible: {impossible}"
    elif not _fits(preset, alone, precision):
        reason = f"data parallelism alone would need {estimate_memory(preset, alone, precision)}"
    else:
        reason = "data parallelism alone fits, but has too little work for each GPU to hide its communication"
    if time.compute < WORTHWHILE * time.total:
        reason += ". The GPUs mostly wait: use fewer, or a larger --global-batch-size"
    return reason


def _why_none(preset: ModelPreset, gpus: int, precision: str) -> str:
    possible = list(_possible(preset, gpus))
    if not possible:
        ways = (range(gpus - 1, 0, -1), range(gpus + 1, 8 * gpus + 64))
        nearest = [next((count for count in way if _usable(preset, count, precision)), 0) for way in ways]
        return (
            f"no layout of {preset.name} divides its batch of {preset.recipe.global_batch_size} sequences among {gpus} "
            f"GPUs; nearest usable: {' or '.join(str(count) for count in nearest if count)} GPUs"
        )
    smallest = min((estimate_memory(preset, layout, precision) for layout in possible), key=lambda m: m.total)
    why = f"{preset.name} does not fit on {gpus} GPUs of 80 GB: the smallest layout needs {smallest}"
    return f"{why}; use {_what_fits(preset, gpus, precision)}"


def _what_fits(preset: ModelPreset, gpus: int, precision: str) -> str:
    """More GPUs or shorter sequences, whichever would help."""
    advice = []
    if any(_usable(preset, gpus << doublings, precision) for doublings in range(1, 8)):
        advice.append("more GPUs")
    length = preset.recipe.seq_length
    shorter = (length >> halvings for halvings in range(1, length.bit_length()))
    longest = next((tokens for tokens in shorter if _usable(preset.with_batch(tokens, None), gpus, precision)), 0)
    if longest:
        advice.append(f"--seq-length {longest} ({WITHOUT_CONTEXT})")
    return " or ".join(advice) or "a smaller preset"


def _usable(preset: ModelPreset, gpus: int, precision: str) -> bool:
    """Whether a layout of this many GPUs is possible and fits."""
    plain = (
        Layout(gpus=gpus, tensor=tensor, pipeline=pipeline, expert=expert, recompute=recompute)
        for tensor in possible_tensor(preset)
        for pipeline in possible_pipeline(preset)
        for expert in _expert_sizes(preset)
        for recompute in (False, precision == "bf16" or pipeline == 1)
        if tensor <= GPUS_PER_NODE and pipeline <= MAX_PIPELINE
    )
    return any(not why_impossible(preset, layout) and _fits(preset, layout, precision) for layout in plain)
