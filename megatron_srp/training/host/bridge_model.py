"""The model of a preset or of a checkpoint as Megatron Bridge describes it: the fields of its GPTModelProvider (0.6).

`run_config.yaml` in a checkpoint is how Bridge knows that it is one of its own: `AutoBridge` loads and exports it.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from megatron_srp.files import write_text
from megatron_srp.training.flags.llama_arguments import is_llama
from megatron_srp.training.flags.model_preset import ModelPreset

NAME = "run_config.yaml"
_BRIDGE = "megatron.bridge"
# A Llama-like decoder: RMSNorm, SwiGLU, RoPE, no bias, no dropout.
_LLAMA = {
    "normalization": "RMSNorm",
    "gated_linear_unit": True,
    "add_bias_linear": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "position_embedding_type": "rope",
}


def provider_of_preset(preset: ModelPreset) -> dict[str, Any]:
    """The arguments of a GPTModelProvider; the vocabulary's size is the tokenizer's."""
    import torch

    return _LLAMA | {
        "num_layers": preset.num_layers,
        "hidden_size": preset.hidden_size,
        "ffn_hidden_size": preset.ffn_hidden_size,
        "num_attention_heads": preset.num_attention_heads,
        "num_query_groups": preset.num_query_groups,
        "kv_channels": preset.head_size,
        "layernorm_epsilon": 1e-5,
        "init_method_std": preset.init_method_std,
        "rotary_base": preset.rotary_base,
        "qk_layernorm": preset.qk_norm,
        "share_embeddings_and_output_weights": preset.tied_embeddings,
        "seq_length": preset.recipe.seq_length,
        "should_pad_vocab": True,
        "activation_func": torch.nn.functional.silu,
    }


def provider_of_run(args: argparse.Namespace) -> dict[str, Any]:
    """The model of a run, as Bridge writes it in YAML.

    Args:
        args: Megatron's arguments, validated, or those of a checkpoint.
    """
    grouped = getattr(args, "group_query_attention", False)
    fields = _LLAMA | {
        "_target_": f"{_BRIDGE}.models.gpt_provider.GPTModelProvider",
        "activation_func": _function("torch.nn.functional.silu"),
        "num_layers": args.num_layers,
        "hidden_size": args.hidden_size,
        "ffn_hidden_size": args.ffn_hidden_size,
        "num_attention_heads": args.num_attention_heads,
        "num_query_groups": args.num_query_groups if grouped else args.num_attention_heads,
        "kv_channels": args.kv_channels,
        "layernorm_epsilon": args.layernorm_epsilon,
        "rotary_base": int(args.rotary_base),
        "rope_scaling": getattr(args, "use_rope_scaling", False),
        "rope_scaling_factor": getattr(args, "rope_scaling_factor", 1.0),
        "share_embeddings_and_output_weights": not args.untie_embeddings_and_output_weights,
        "seq_length": args.max_position_embeddings,
        "vocab_size": getattr(args, "padded_vocab_size", None) or args.vocab_size,
        "should_pad_vocab": False,  # it is padded already
        "bf16": getattr(args, "bf16", False),
        "fp16": getattr(args, "fp16", False),
    }
    if getattr(args, "transformer_impl", None) == "local":
        fields["transformer_layer_spec"] = _function(f"{_BRIDGE}.models.gpt_provider.local_layer_spec")
    return fields


def _function(name: str) -> dict[str, Any]:
    return {"_target_": name, "_call_": False}


def write_run_config(args: argparse.Namespace, folder: Path) -> None:
    """Let Bridge read the checkpoint in `folder`, if its model is a Llama."""
    if not is_llama(args):
        return
    tokenizer = {
        "_target_": f"{_BRIDGE}.training.tokenizers.config.TokenizerConfig",
        "tokenizer_type": args.tokenizer_type,
        "tokenizer_model": args.tokenizer_model,
    }
    write_text(folder / NAME, yaml.safe_dump({"model": provider_of_run(args), "tokenizer": tokenizer}))
