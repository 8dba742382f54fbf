"""`--srp-precision`: recipes for bf16 and FP8 as Megatron's flags, and the combinations that are refused.

All FP8 recipes use Transformer Engine's layers and the hybrid format (E4M3 forward, E5M2 for gradients), and keep
bf16 for everything that is not a matrix product of a layer. They differ in the scale of a tensor: `delayed` takes
it from the largest values of earlier steps, `tensorwise` from the tensor itself, `blockwise` from its blocks. Which
options go with which recipe is as in Megatron Bridge's mixed-precision recipes:

| recipe | first and last layer in bf16 | weights kept and gathered in FP8 |
|---|---|---|
| delayed | no: Megatron refuses it | yes |
| tensorwise | yes | yes |
| blockwise | no | no |
"""

import argparse
from collections.abc import Iterator

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.model_preset import ModelPreset
from megatron_srp.training.layout.layouts import Layout

_BF16 = ("--bf16",)
_FP8 = (*_BF16, "--transformer-impl", "transformer_engine", "--fp8-format", "hybrid", "--fp8-recipe")
# Without both overlaps the parameter gather has given NaN (Megatron-LM issue 2272, block-scaled weights).
_PARAMETER_GATHER = (
    *("--fp8-param-gather", "--use-distributed-optimizer"),
    *("--overlap-grad-reduce", "--overlap-param-gather"),
)
_FIRST_AND_LAST_IN_BF16 = (
    "--first-last-layers-bf16",
    *("--num-layers-at-start-in-bf16", "1", "--num-layers-at-end-in-bf16", "1"),
)
PRECISIONS = {
    "bf16": _BF16,
    "fp8-delayed": (
        *(*_FP8, "delayed", "--fp8-amax-history-len", "1024", "--fp8-amax-compute-algo", "max"),
        *_PARAMETER_GATHER,
    ),
    "fp8-tensorwise": (
        *(*_FP8, "tensorwise", *_FIRST_AND_LAST_IN_BF16, *_PARAMETER_GATHER),
        "--no-stream-ckpt-dequant",  # its slices would each get a scale of their own; Megatron warns and does this
    ),
    "fp8-blockwise": (*_FP8, "blockwise"),
}
SMALL_HIDDEN_SIZE = 1024
FP8_MULTIPLE = 16  # of both sides of every matrix, or cuBLAS has no FP8 kernel


def precision_flags(name: str) -> list[str]:
    """Megatron's flags of a recipe; argparse has checked the name."""
    return list(PRECISIONS[name])


def check_precision(args: argparse.Namespace, model: ModelPreset | None, layout: Layout | None) -> list[str]:
    """Refuse FP8 settings that are known to fail; returns notes worth a line each.

    Args:
        args: of `command_line.look_at`, presets expanded.
        model, layout: where they are known.
    """
    if args.fp8 is None:
        if args.fp8_param_gather:
            raise UsageError("--fp8-param-gather needs FP8: give --srp-precision fp8-tensorwise or --fp8-format hybrid")
        return []
    for reason in _reasons(args):
        raise UsageError(reason)
    if model is None or layout is None:
        return []
    for reason in _reasons_of_layout(args, model, layout):
        raise UsageError(reason)
    if model.hidden_size < SMALL_HIDDEN_SIZE:
        return [f"FP8 is seldom faster than bf16 at a hidden size of {model.hidden_size}: measure both"]
    return []


def _reasons(args: argparse.Namespace) -> Iterator[str]:
    if args.fp16:
        yield "--fp16 cannot be used with FP8: its recipes compute the rest in bf16. Leave --fp16 out"
    if args.transformer_impl == "local":
        yield "--transformer-impl local has no FP8: it is Transformer Engine's. Leave it out, or the FP8 flags"
    if args.fp8_recipe == "mxfp8":
        yield (
            "--fp8-recipe mxfp8 needs a Blackwell GPU, and this entry point has not been tried on one; on "
            "Hopper take --srp-precision fp8-blockwise"
        )
    if args.fp8_recipe in (None, "delayed") and args.first_last_layers_bf16:
        yield (
            "--first-last-layers-bf16 cannot be used with delayed scaling (Megatron's own rule); take "
            "--srp-precision fp8-tensorwise"
        )
    overlaps = args.use_distributed_optimizer and args.overlap_grad_reduce and args.overlap_param_gather
    if args.fp8_param_gather and not overlaps:
        yield (
            "--fp8-param-gather needs --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather: "
            "without the overlaps it has given NaN (Megatron-LM issue 2272)"
        )


def _reasons_of_layout(args: argparse.Namespace, model: ModelPreset, layout: Layout) -> Iterator[str]:
    accumulates = layout.micro_batches(model) > 1
    if layout.pipeline > 1 and args.recompute_granularity and accumulates:
        yield (
            "FP8 with pipeline parallelism, recomputation and gradient accumulation together has given NaN "
            "(Megatron-LM issue 607): leave out --recompute-granularity, or use tensor parallelism"
        )
    groups = max(1, model.num_query_groups // layout.tensor)
    sides = {
        "--hidden-size": model.hidden_size,
        "queries per rank": model.query_size // layout.tensor,
        "keys and values per rank": model.head_size * groups,
        "--ffn-hidden-size per rank": model.ffn_hidden_size // layout.tensor,
        "tokens per rank": layout.micro_batch * model.recipe.seq_length // layout.tensor,
    }
    for name, side in sides.items():
        if side % FP8_MULTIPLE:
            yield f"FP8 multiplies matrices whose sides are multiples of {FP8_MULTIPLE}; {name} is {side}"
