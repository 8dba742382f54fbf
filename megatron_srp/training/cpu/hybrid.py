"""HybridModel without Transformer Engine: attention and MLP layers of Megatron's own modules. Part of the CPU backend.

Megatron has a specification of these layers in Transformer Engine's modules only. Mamba's need CUDA kernels.
"""

from dataclasses import replace
from typing import Any


def use_local_layers() -> None:
    """Build HybridModel's layers, and the norm after them, from Megatron's own modules."""
    from megatron.core.models.hybrid import hybrid_block, hybrid_layer_specs
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.training.models import hybrid

    hybrid_layer_specs.hybrid_stack_spec = hybrid.default_hybrid_stack_spec = local_stack()
    hybrid_block.TENorm = WrappedTorchNorm


def local_stack() -> Any:
    """The specification of a stack of attention and MLP layers."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_submodules
    from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
    from megatron.core.ssm.mlp_layer import MLPLayer
    from megatron.core.transformer.identity_op import IdentityFuncOp, IdentityOp
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import TransformerLayer

    whole = get_gpt_layer_local_submodules(normalization="RMSNorm")
    attention = replace(whole, pre_mlp_layernorm=IdentityOp, mlp=IdentityOp, mlp_bda=IdentityFuncOp)
    mlp = replace(whole, input_layernorm=IdentityOp, self_attention=IdentityOp, self_attn_bda=IdentityFuncOp)
    return ModuleSpec(
        module=HybridStack,
        submodules=HybridStackSubmodules(
            attention_layer=ModuleSpec(module=TransformerLayer, submodules=attention),
            mlp_layer=ModuleSpec(module=MLPLayer, submodules=mlp),
        ),
    )
