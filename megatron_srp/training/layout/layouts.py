"""How a model is spread over GPUs, and why some layouts are impossible. Works before Megatron is imported.

    Layout(gpus=64, tensor=2, pipeline=1, micro_batch=4)
    check_layout(preset, layout)      # UsageError: the reason, and the nearest layouts that work

Names of sizes: TP tensor parallel, PP pipeline parallel, VP virtual stages of each pipeline rank, DP data parallel =
GPUs / (TP x PP x CP), where CP, context parallel, is 1 unless the user asks for it (`WITHOUT_CONTEXT`). EP, expert
parallel, is the number of ranks of a pipeline stage among which each layer's experts are divided; an expert is whole.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.model_preset import ModelPreset

GPUS_PER_NODE = 8
WITHOUT_CONTEXT = "without --context-parallel-size, which spreads a sequence over GPUs and which no layout here uses"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the parallel groups, and how much a rank computes at a time."""

    gpus: int
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    virtual: int = 1  # pipeline stages of each rank, interleaved; 1: none
    micro_batch: int = 1  # sequences
    recompute: bool = False  # every layer's activations, in the backward pass

    @property
    def data(self) -> int:
        """Data-parallel size; exact only if `check_layout` passes."""
        return self.gpus // (self.tensor * self.pipeline * self.context)

    @property
    def expert_data(self) -> int:
        """Ranks that hold the same experts; exact only if `check_layout` passes."""
        return self.gpus // (self.expert * self.pipeline)

    def micro_batches(self, preset: ModelPreset) -> int:
        """Forward passes per rank in one step."""
        batch = preset.recipe.global_batch_size or self.micro_batch * self.data
        return max(1, batch // (self.micro_batch * self.data))

    def to_flags(self) -> list[str]:
        """The layout as Megatron's flags; sequence parallelism comes with tensor parallelism."""
        flags: list[object] = ["--micro-batch-size", self.micro_batch]
        flags += ["--tensor-model-parallel-size", self.tensor]
        flags += ["--pipeline-model-parallel-size", self.pipeline]
        if self.virtual > 1:
            flags += ["--num-virtual-stages-per-pipeline-rank", self.virtual]
        if self.context > 1:
            flags += ["--context-parallel-size", self.context]
        if self.expert > 1:
            flags += ["--expert-model-parallel-size", self.expert]
        if self.tensor > 1:
            flags += ["--sequence-parallel"]
        if self.recompute:
            flags += ["--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", 1]
        return [str(flag) for flag in flags]

    def __str__(self) -> str:
        virtual = f" VP {self.virtual}" if self.virtual > 1 else ""
        recompute = ", recomputed" if self.recompute else ""
        expert = f" EP {self.expert}" if self.expert > 1 else ""
        sizes = f"TP {self.tensor} PP {self.pipeline}{virtual} CP {self.context}{expert} DP {self.data}"
        return f"{sizes}, micro-batch {self.micro_batch}{recompute}"


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`: the number of GPUs that can share a batch, say."""
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def possible_tensor(preset: ModelPreset) -> list[int]:
    """Valid TP sizes."""
    return [tp for tp in range(1, preset.num_attention_heads + 1) if not _why_not_tensor(preset, tp)]


def _why_not_tensor(preset: ModelPreset, tensor: int) -> str:
    """Which part of the model cannot be divided among this many ranks; empty if all can."""
    heads, groups, ffn = preset.num_attention_heads, preset.num_query_groups, preset.ffn_hidden_size
    if heads % tensor:
        return f"the {heads} attention heads of {preset.name} cannot be divided by it"
    if ffn % tensor:
        return f"it divides the {heads} attention heads of {preset.name}, but not its MLP, {ffn} wide"
    if groups % tensor and tensor % groups:
        return f"it neither divides the {groups} key/value groups of {preset.name} nor is a multiple of them"
    return ""


def possible_pipeline(preset: ModelPreset, virtual: int = 1) -> list[int]:
    """Valid PP sizes: each stage (of each virtual rank) has the same number of layers."""
    return [pp for pp in divisors(preset.num_layers) if preset.num_layers % (pp * virtual) == 0]


def _nearest(wanted: int, possible: Iterable[int]) -> str:
    near = sorted(sorted(possible, key=lambda size: abs(size - wanted))[:3])
    return "nearest possible: " + ", ".join(map(str, near))


def neighbours(wanted: int, possible: Iterable[int]) -> list[int]:
    """The largest of `possible` below `wanted` and the smallest above it, as far as they exist."""
    sizes = sorted(possible)
    return [size for size in sizes if size < wanted][-1:] + [size for size in sizes if size > wanted][:1]


def _check_tensor(preset: ModelPreset, layout: Layout) -> str:
    if not (reason := _why_not_tensor(preset, layout.tensor)):
        return ""
    possible = ", ".join(map(str, possible_tensor(preset)))
    return f"--tensor-model-parallel-size {layout.tensor}: {reason}; possible: {possible}"


def _check_pipeline(preset: ModelPreset, layout: Layout) -> str:
    possible = possible_pipeline(preset, layout.virtual)
    stages = f" x {layout.virtual} virtual stages" if layout.virtual > 1 else ""
    if layout.pipeline not in possible:
        return (
            f"--pipeline-model-parallel-size {layout.pipeline}{stages}: the {preset.num_layers} layers of "
            f"{preset.name} cannot be divided evenly; {_nearest(layout.pipeline, possible)}"
        )
    if layout.virtual > 1 and layout.pipeline == 1:
        return "--num-virtual-stages-per-pipeline-rank needs --pipeline-model-parallel-size of 2 or more"
    return ""


def _check_gpus(preset: ModelPreset, layout: Layout) -> str:
    size = layout.tensor * layout.pipeline * layout.context
    if layout.gpus % size == 0:
        return ""
    multiple = max(1, round(layout.gpus / size)) * size
    context = f" x CP {layout.context}" if layout.context > 1 else ""
    return (
        f"TP {layout.tensor} x PP {layout.pipeline}{context} = {size} GPUs hold one copy of the model, and "
        f"{layout.gpus} GPUs are not a multiple of it; nearest possible: {multiple} GPUs"
    )


def possible_expert(preset: ModelPreset) -> list[int]:
    """Valid EP sizes: each rank has the same number of experts."""
    return divisors(preset.experts.count) if preset.experts else [1]


def _check_expert(preset: ModelPreset, layout: Layout) -> str:
    asked, possible = f"--expert-model-parallel-size {layout.expert}", possible_expert(preset)
    if layout.expert == 1:
        return ""
    if preset.experts is None:
        return f"{asked}: {preset.name} has no experts; leave it out"
    if layout.expert not in possible:
        why = f"the {preset.experts.count} experts of {preset.name} cannot be divided by it"
        return f"{asked}: {why}; {_nearest(layout.expert, possible)}"
    ranks = layout.gpus // layout.pipeline
    if ranks % layout.expert:
        usable = [size for size in possible if ranks % size == 0]
        return f"{asked}: it does not divide the {ranks} ranks of a pipeline stage; {_nearest(layout.expert, usable)}"
    return ""


def _check_batch(preset: ModelPreset, layout: Layout) -> str:
    batch = preset.recipe.global_batch_size
    per_pass = layout.micro_batch * layout.data
    if batch is None or batch % per_pass == 0:
        return ""
    if batch < layout.data:
        return (
            f"--global-batch-size {batch} has fewer sequences than the {layout.data} data-parallel ranks: use "
            f"at most {batch * layout.gpus // layout.data} GPUs, more model parallelism, or a larger batch"
        )
    if batch % layout.data == 0:
        share = batch // layout.data
        return (
            f"--global-batch-size {batch} is {share} sequences for each of DP {layout.data}, not a multiple of "
            f"--micro-batch-size {layout.micro_batch}; {_nearest(layout.micro_batch, divisors(share))}"
        )
    usable = [data * layout.gpus // layout.data for data in neighbours(layout.data, divisors(batch))]
    return (
        f"--global-batch-size {batch} cannot be divided among DP {layout.data}; nearest possible: "
        f"{' or '.join(map(str, usable))} GPUs, or --global-batch-size {max(1, round(batch / per_pass)) * per_pass}"
    )


def _check_schedule(preset: ModelPreset, layout: Layout) -> str:
    passes = layout.micro_batches(preset)
    if layout.virtual > 1 and passes % layout.pipeline:
        return (
            f"the interleaved schedule runs micro-batches in groups of PP {layout.pipeline}, and a step has "
            f"{passes} on each rank; pass a --global-batch-size that makes it a multiple, or no virtual stages"
        )
    if layout.tensor > 1 and preset.recipe.seq_length % layout.tensor:
        return (
            f"--seq-length {preset.recipe.seq_length} cannot be divided among TP {layout.tensor}, as sequence "
            f"parallelism does"
        )
    return ""


_CHECKS: tuple[Callable[[ModelPreset, Layout], str], ...] = (
    _check_tensor,
    _check_pipeline,
    _check_gpus,
    _check_expert,
    _check_batch,
    _check_schedule,
)


def why_impossible(preset: ModelPreset, layout: Layout) -> str:
    """The first reason why this layout cannot run, with the nearest one that can; empty if it can."""
    return next((reason for check in _CHECKS if (reason := check(preset, layout))), "")


def check_layout(preset: ModelPreset, layout: Layout) -> None:
    """Refuse a layout that Megatron would fail on later with a traceback."""
    if reason := why_impossible(preset, layout):
        raise UsageError(reason)
