"""The model and the layout of a command line, read from its flags before Megatron is imported."""

import argparse
import dataclasses

from megatron_srp.training.flags.model_class import num_layers
from megatron_srp.training.flags.model_preset import Experts, ModelPreset, TrainingRecipe
from megatron_srp.training.layout.layouts import Layout

# Flags that the checks of `layouts.py` do not cover: if one is given, only Megatron checks the layout.
UNEVEN = (
    "--pipeline-model-parallel-layout",
    "--decoder-first-pipeline-num-layers",
    "--decoder-last-pipeline-num-layers",
    "--num-layers-per-virtual-pipeline-stage",
    "--moe-layer-freq",
    "--moe-shared-expert-intermediate-size",
    "--moe-latent-size",
    "--hybrid-layer-pattern",
)
# The flags read here and in `precision.py` and `devices.py`, in Megatron's own spelling and types.
SHAPE_FLAGS: dict[str, dict[str, object]] = {
    # The model's shape, and how it is spread over GPUs.
    "--num-layers": {"type": int},
    "--hidden-size": {"type": int},
    "--ffn-hidden-size": {"type": int},
    "--num-attention-heads": {"type": int},
    "--group-query-attention": {"action": "store_true"},
    "--num-query-groups": {"type": int},
    "--kv-channels": {"type": int},
    "--num-experts": {"type": int},
    "--moe-ffn-hidden-size": {"type": int},
    "--moe-router-topk": {"type": int},
    "--seq-length": {"type": int},
    "--micro-batch-size": {"type": int},
    "--global-batch-size": {"type": int},
    "--rampup-batch-size": {"nargs": 3},
    "--step-batch-size-schedule": {},
    "--tensor-model-parallel-size": {"type": int},
    "--pipeline-model-parallel-size": {"type": int},
    "--expert-model-parallel-size": {"type": int},
    "--expert-tensor-parallel-size": {"type": int},
    "--use-rope-scaling": {"action": "store_true"},
    "--num-virtual-stages-per-pipeline-rank": {"type": int},
    "--recompute-granularity": {},
    # Precision.
    "--bf16": {"action": "store_true"},
    "--fp16": {"action": "store_true"},
    "--transformer-impl": {},
    "--fp8-format": {"dest": "fp8"},
    "--fp8-recipe": {},
    "--fp8-param-gather": {"action": "store_true"},
    "--first-last-layers-bf16": {"action": "store_true"},
    "--use-distributed-optimizer": {"action": "store_true"},
    "--overlap-grad-reduce": {"action": "store_true"},
    "--overlap-param-gather": {"action": "store_true"},
    **{flag: {} for flag in UNEVEN},
}


def model_of(args: argparse.Namespace) -> ModelPreset | None:
    """The model's shape, or None if the flags do not set it or describe another kind of model."""
    layers = num_layers(args)
    sizes = (layers, args.hidden_size, args.num_attention_heads, args.seq_length)
    uneven = [flag for flag in UNEVEN if flag != "--hybrid-layer-pattern"]
    if layers is None or not all(sizes) or any(_value(args, flag) for flag in uneven):
        return None
    if args.num_experts and _expert_tensor_size(args) > 1:  # no layout here splits an expert
        return None
    width = (args.moe_ffn_hidden_size if args.num_experts else None) or args.ffn_hidden_size
    return ModelPreset(
        name=args.srp_preset or "the model",
        num_layers=layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=width or 4 * args.hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=(args.num_query_groups if args.group_query_attention else None) or args.num_attention_heads,
        vocab_size=0,  # the tokenizer's
        init_method_std=0.0,
        source_url="",
        recipe=_recipe_of(args),
        experts=Experts(args.num_experts, args.moe_router_topk or 2) if args.num_experts else None,
        kv_channels=args.kv_channels,
    )


def _expert_tensor_size(args: argparse.Namespace) -> int:
    """Ranks that share an expert: as many as share the other matrices, unless the flags say otherwise."""
    return args.expert_tensor_parallel_size or args.tensor_model_parallel_size or 1


def _value(args: argparse.Namespace, flag: str) -> object:
    return getattr(args, flag[2:].replace("-", "_"))


def _recipe_of(args: argparse.Namespace) -> TrainingRecipe:
    grows = args.rampup_batch_size or args.step_batch_size_schedule
    return TrainingRecipe(
        seq_length=args.seq_length,
        micro_batch_size=args.micro_batch_size or 1,
        global_batch_size=None if grows else args.global_batch_size,
        train_iters=args.train_iters or 0,
        lr=0.0,
        warmup_fraction=0.0,
        bf16=args.bf16,
    )


def layout_of(args: argparse.Namespace, gpus: int) -> Layout:
    """The layout of the flags on `gpus` ranks."""
    return Layout(
        gpus=gpus,
        tensor=args.tensor_model_parallel_size or 1,
        pipeline=args.pipeline_model_parallel_size or 1,
        context=args.context_parallel_size or 1,
        expert=args.expert_model_parallel_size or 1,
        virtual=args.num_virtual_stages_per_pipeline_rank or 1,
        micro_batch=args.micro_batch_size or 1,
        recompute=args.recompute_granularity == "full",
    )


def with_vocabulary(model: ModelPreset, preset: ModelPreset) -> ModelPreset:
    """`model` with what the flags do not say: the preset's vocabulary, and whether its embedding is tied."""
    return dataclasses.replace(model, vocab_size=preset.vocab_size, tied_embeddings=preset.tied_embeddings)
