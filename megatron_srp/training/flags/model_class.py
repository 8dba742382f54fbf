"""`--srp-model-class`: the same decoder as Megatron's GPTModel, or as its HybridModel, which replaces it.

HybridModel writes its layers as a pattern: `*` is attention and `-` an MLP, so `*-` is a layer of GPTModel. With the
same seed both have the same weights and losses; Megatron loads a checkpoint of GPTModel into a HybridModel.
"""

import argparse

from megatron_srp.errors import UsageError

LAYER = "*-"
CLASSES = ("gpt", "hybrid")


def hybrid_flags(args: argparse.Namespace, argv: list[str]) -> list[str]:
    """`argv` with its number of layers written as a pattern, if `args` ask for a HybridModel.

    Raises:
        UsageError: for flags that HybridModel would ignore or does not support.
    """
    if args.srp_model_class != "hybrid" or args.help:
        return argv
    if args.hybrid_layer_pattern:
        raise UsageError("--srp-model-class hybrid and --hybrid-layer-pattern both describe the layers; pass one")
    if not args.num_layers:
        raise UsageError("--srp-model-class hybrid: pass --srp-preset or --num-layers")
    if args.use_rope_scaling:
        raise UsageError("--srp-model-class hybrid: HybridModel ignores --use-rope-scaling; leave one of them out")
    if args.num_virtual_stages_per_pipeline_rank:
        raise UsageError(
            "--srp-model-class hybrid has no --num-virtual-stages-per-pipeline-rank; leave one of them out"
        )
    return ["--hybrid-layer-pattern", LAYER * args.num_layers, *_without_layers(argv)]


def _without_layers(argv: list[str]) -> list[str]:
    kept: list[str] = []
    for before, token in zip(["", *argv[:-1]], argv, strict=True):
        if before != "--num-layers" and token.partition("=")[0] != "--num-layers":
            kept.append(token)
    return kept


def num_layers(args: argparse.Namespace) -> int | None:
    """Layers of attention and MLP, of either class; None for a pattern of other layers."""
    pattern: str | None = getattr(args, "hybrid_layer_pattern", None)
    if not pattern:
        found: int | None = args.num_layers
        return found
    count = pattern.count("*")
    return count if pattern == LAYER * count else None
