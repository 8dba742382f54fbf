"""One architecture under two names: Megatron's GPT with the presets' flags is Hugging Face's Llama.

`LlamaShape` holds what both configurations share, and `weights(shape)` says which tensors correspond and how
they are split and joined. L layers, h hidden size, f feed-forward size, a attention heads, g query
groups, d head size, v vocabulary.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_srp.errors import InputError
from megatron_srp.training.flags.llama_arguments import LLAMA_ARGUMENTS
from megatron_srp.training.flags.model_class import num_layers

if TYPE_CHECKING:
    from torch import Tensor

# Megatron's arguments that change the architecture, the values that Llama has, and what Llama has.
_HF_LIMITS: dict[str, tuple[tuple[Any, ...], str]] = {
    "model_type": (("llama",), "llama"),
    "hidden_act": (("silu",), "silu"),
    "attention_bias": ((False,), "false: biases are not imported"),
    "mlp_bias": ((False,), "false: biases are not imported"),
}
# What Megatron's --use-rope-scaling does, in Hugging Face's words; only the factor can be chosen.
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The sizes and constants that both sides need; `rope_factor` is Llama 3's, None for plain RoPE."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_epsilon: float
    rope_base: float
    rope_factor: float | None
    tied: bool


def shape_of_megatron(args: argparse.Namespace, vocab_size: int, where: str) -> LlamaShape:
    """The shape that a checkpoint's arguments describe; raises InputError when it is not a Llama."""
    for name, (allowed, llama) in LLAMA_ARGUMENTS.items():
        value = getattr(args, name, allowed[0])
        if name == "hybrid_layer_pattern" and num_layers(args) is not None:  # the same layers, counted one by one
            continue
        if value not in allowed:
            raise InputError(f"{where}: cannot be exported as a Llama, which has {llama}; here {name} is {value!r}")
    return LlamaShape(
        num_layers=num_layers(args) or args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups if args.group_query_attention else args.num_attention_heads,
        head_dim=args.kv_channels,
        vocab_size=vocab_size,
        max_positions=args.max_position_embeddings,
        norm_epsilon=args.layernorm_epsilon,
        rope_base=float(args.rotary_base),
        rope_factor=args.rope_scaling_factor if getattr(args, "use_rope_scaling", False) else None,
        tied=not args.untie_embeddings_and_output_weights,
    )


def shape_of_hf(config: Any, where: str) -> LlamaShape:
    """The shape that a transformers configuration describes; raises InputError when it is not a plain Llama."""
    for name, (allowed, wanted) in _HF_LIMITS.items():
        value = getattr(config, name, allowed[0])
        if value not in allowed:
            raise InputError(f"{where}: cannot be imported: {name} is {value!r} but must be {wanted}")
    rope = dict(config.rope_parameters)
    base, kind = float(rope.pop("rope_theta")), rope.get("rope_type", "default")
    factor = rope.pop("factor", None) if kind == "llama3" else None
    if kind != "default" and rope != _LLAMA3_ROPE:
        raise InputError(
            f"{where}: cannot be imported: Megatron has plain rotary positions and Llama 3's ({_LLAMA3_ROPE}), "
            f"not {rope}"
        )
    return LlamaShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_key_value_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        norm_epsilon=config.rms_norm_eps,
        rope_base=base,
        rope_factor=factor,
        tied=config.tie_word_embeddings,
    )


def to_hf_config(shape: LlamaShape, dtype: str, **token_ids: int | list[int] | None) -> Any:
    """The `transformers.LlamaConfig` of a shape; `token_ids` are `eos_token_id` and the like."""
    from transformers import LlamaConfig

    rope: dict[str, Any] = {"rope_theta": shape.rope_base, "rope_type": "default"}
    if shape.rope_factor is not None:
        rope |= {**_LLAMA3_ROPE, "factor": shape.rope_factor}
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        num_hidden_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.norm_epsilon,
        rope_parameters=rope,
        tie_word_embeddings=shape.tied,
        attention_bias=False,
        mlp_bias=False,
        dtype=dtype,
        **token_ids,
    )


def rope_of_old(rope: dict[str, Any]) -> dict[str, Any]:
    """The `rope_parameters` of a configuration in the words of transformers 4, which ignores others and would silently
    use its own default base; transformers 5 reads both."""
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {"rope_theta": rope["rope_theta"]} | ({"rope_scaling": scaling} if rope["rope_type"] != "default" else {})


@dataclass(frozen=True, slots=True)
class Weight:
    """A Megatron tensor and the Llama tensors that it is split into.

    Attributes:
        megatron: its name; a layer's tensor is at index `layer` of a stack of L.
        llama: Llama's names, in the order of `split`.
        shape: of Megatron's tensor, without the stack's dimension.
        split, join: split it into Llama's tensors (views, where possible), and join them.
    """

    megatron: str
    llama: tuple[str, ...]
    layer: int | None
    shape: tuple[int, ...]
    split: Callable[["Tensor"], Sequence["Tensor"]] = lambda tensor: (tensor,)
    join: Callable[[Sequence["Tensor"]], "Tensor"] = lambda parts: parts[0]


def weights(shape: LlamaShape) -> list[Weight]:
    """All weights, in the order in which Llama's files hold them."""
    h, v = shape.hidden_size, shape.vocab_size
    table = [Weight("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), None, (v, h))]
    for layer in range(shape.num_layers):
        table += _layer_weights(shape, layer)
    table.append(Weight("decoder.final_layernorm.weight", ("model.norm.weight",), None, (h,)))
    if not shape.tied:
        table.append(Weight("output_layer.weight", ("lm_head.weight",), None, (v, h)))
    return table


def _layer_weights(shape: LlamaShape, layer: int) -> list[Weight]:
    h, f, d = shape.hidden_size, shape.ffn_hidden_size, shape.head_dim
    a, g = shape.num_attention_heads, shape.num_query_groups

    def weight(megatron: str, llama: str, size: tuple[int, ...], **cut: Any) -> Weight:
        path, _, names = llama.rpartition("/")
        full = tuple(f"model.layers.{layer}.{path}{name}.weight" for name in names.split())
        return Weight(f"decoder.layers.{megatron}", full, layer, size, **cut)

    # Megatron keeps each group's queries next to its key and value: [g, a/g + 2, d, h].
    def split_qkv(qkv: "Tensor") -> Sequence["Tensor"]:
        grouped = qkv.view(g, a // g + 2, d, h)
        return [part.reshape(-1, h) for part in (grouped[:, :-2], grouped[:, -2], grouped[:, -1])]

    def join_qkv(parts: Sequence["Tensor"]) -> "Tensor":
        import torch

        q, k, v = (part.view(g, -1, d, h) for part in parts)
        return torch.cat([q, k, v], dim=1).view(-1, h)

    def join_rows(parts: Sequence["Tensor"]) -> "Tensor":
        import torch

        return torch.cat(list(parts))

    return [
        weight("self_attention.linear_qkv.layer_norm_weight", "input_layernorm", (h,)),
        weight(
            "self_attention.linear_qkv.weight",
            "self_attn./q_proj k_proj v_proj",
            ((a + 2 * g) * d, h),
            split=split_qkv,
            join=join_qkv,
        ),
        weight("self_attention.linear_proj.weight", "self_attn./o_proj", (h, a * d)),
        weight("mlp.linear_fc1.layer_norm_weight", "post_attention_layernorm", (h,)),
        weight(
            "mlp.linear_fc1.weight",
            "mlp./gate_proj up_proj",
            (2 * f, h),
            split=lambda gate_and_up: gate_and_up.chunk(2),
            join=join_rows,
        ),
        weight("mlp.linear_fc2.weight", "mlp./down_proj", (h, f)),
    ]
