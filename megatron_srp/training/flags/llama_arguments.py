"""Which of Megatron's arguments describe a Llama: what other values change the model's function."""

import argparse
from typing import Any

# The values that a Llama has, the first where a checkpoint does not record the argument; and what they say of it.
LLAMA_ARGUMENTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "normalization": (("RMSNorm",), "RMSNorm"),
    "apply_layernorm_1p": ((False, None), "norms with their gain as it is"),
    "qk_layernorm": ((False, None), "no norm on queries and keys"),
    "qk_l2_norm": ((False, None), "no norm on queries and keys"),
    "apply_residual_connection_post_layernorm": ((False, None), "norms before the layers"),
    "swiglu": ((True,), "SwiGLU"),
    "activation_func_clamp_value": ((None,), "an unclamped activation"),
    "glu_linear_offset": ((0.0, None), "a gate without offset"),
    "add_bias_linear": ((False,), "no bias"),
    "add_qkv_bias": ((False, None), "no bias"),
    "position_embedding_type": (("rope",), "rotary positions"),
    "rotary_percent": ((1.0, None), "rotary positions in the whole head"),
    "rotary_interleaved": ((False, None), "rotary positions in halves"),
    "rotary_seq_len_interpolation_factor": ((None, 1), "plain rotary positions"),
    "no_rope_freq": ((None,), "rotary positions in every layer"),
    "window_size": ((None,), "full attention"),
    "softmax_type": (("vanilla", None), "a plain softmax"),
    "attention_output_gate": ((False, None), "no gate on the attention's output"),
    "experimental_attention_variant": ((None,), "plain attention"),
    "multi_latent_attention": ((False, None), "plain attention"),
    "num_experts": ((None,), "no experts"),
    "mtp_num_layers": ((None, 0), "one prediction per position"),
    "hybrid_layer_pattern": ((None,), "attention in every layer"),
    "heterogeneous_layers_config_path": ((None,), "equal layers"),
    "use_mup": ((False, None), "no scaled activations"),
}


def is_llama(args: argparse.Namespace) -> bool:
    """Whether a run's arguments describe a GPTModel that is a Llama."""
    return all(getattr(args, name, allowed[0]) in allowed for name, (allowed, _) in LLAMA_ARGUMENTS.items())
