"""Convert a Hugging Face Llama to a checkpoint that Megatron starts from, at any parallel layout.

It is what Megatron calls a release: weights without iteration and optimizer, so that a
run that loads it begins at step 0 with a fresh optimizer and learning-rate schedule.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

from megatron_srp.checkpoints.description import as_trained
from megatron_srp.checkpoints.llama import LlamaShape, weights
from megatron_srp.errors import UsageError
from megatron_srp.model_description import ModelDescription, describe_model
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from megatron_srp.tokenization.end_of_document import eos_note
from megatron_srp.training.flags.presets import PRESETS
from megatron_srp.training.host.bridge_model import write_run_config
from megatron_srp.training.process.repair_tracker import TRACKER
from megatron_srp.whole_folder import whole_folder

DTYPES = ("as-saved", "bfloat16", "float32")
# State other than weights that Megatron's layers look for (FP8 scales, with Transformer Engine).
_EXTRA_STATES = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "self_attention.core_attention",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)
_SAME_IN_A_PRESET = (
    *("--num-layers", "--hidden-size", "--ffn-hidden-size", "--num-attention-heads", "--num-query-groups"),
    *("--kv-channels", "--untie-embeddings-and-output-weights", "--use-rope-scaling"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Imported:
    """What was written, the flags of a run that loads it, and what a user may not expect, one line each."""

    folder: Path
    shape: LlamaShape
    num_params: int
    new_tokens: int
    flags: list[str]
    notes: list[str]


def import_hf(
    model: Path, out: Path, *, dtype: str = "as-saved", tokenizer: str | None = None, overwrite: bool = False
) -> Imported:
    """Write the model in the folder `model` as a checkpoint of Megatron.

    Args:
        model: a folder with config.json and safetensors, or a GGUF file, whose tokenizer goes into OUT/tokenizer.
        out: folder to write, whole or not at all.
        dtype: of the checkpoint, one of `DTYPES`.
        tokenizer: the tokenizer for training, if not the model's own: one with added tokens (such as
            those of `--reflection-tokens special`). Each new token's embedding is the mean of all.
        overwrite: replace `out`.

    Raises:
        InputError: when the model cannot be read, or is not a plain Llama.
        UsageError: when `out` exists, or for an unknown dtype.
        OutputError: when it cannot be written.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r}; choose from {', '.join(DTYPES)}")

    import torch

    from megatron_srp.checkpoints.gguf_file import GGUFWeights, is_gguf, write_tokenizer
    from megatron_srp.checkpoints.hf_weights import HFWeights
    from megatron_srp.checkpoints.megatron_writer import write_checkpoint

    packed = is_gguf(model)
    source = GGUFWeights(model) if packed else HFWeights(model)
    tokenizer_model = tokenizer or str(out / "tokenizer" if packed else model)
    tokenizer_type = "SentencePieceTokenizer" if tokenizer_model.endswith(".model") else "HuggingFaceTokenizer"
    final = source.dtype if dtype == "as-saved" else getattr(torch, dtype)
    with whole_folder(out, overwrite, marker=TRACKER) as folder:
        unpacked = str(write_tokenizer(model, folder / "tokenizer")) if packed and not tokenizer else tokenizer_model
        text_tokenizer = load_tokenizer(tokenizer_type, unpacked)
        note = eos_note(text_tokenizer)
        description = None if packed else describe_model(str(model))
        ends = description.eod_id if description else None
        eod_token = None if ends is None else text_tokenizer.token_name(ends)
        data = {"srp_data": as_trained(description, eod_token)} if description else {}
        vocab_size = max(source.shape.vocab_size, text_tokenizer.vocab_size)
        shape = dataclasses.replace(source.shape, vocab_size=vocab_size)
        table = weights(shape)
        source.check(table)
        args = argparse.Namespace(
            **megatron_args(shape), tokenizer_type=tokenizer_type, tokenizer_model=tokenizer_model, **data
        )
        write_checkpoint(
            folder / "release", table, source.megatron, final, args, shape.num_layers, _extra_states(shape.num_layers)
        )
        write_run_config(args, folder / "release")
        (folder / TRACKER).write_text("release")
    tokenizer_flags = ["--tokenizer-type", tokenizer_type, "--tokenizer-model", tokenizer_model]
    return Imported(
        folder=out,
        shape=shape,
        num_params=sum(math.prod(weight.shape) for weight in table),
        new_tokens=vocab_size - source.shape.vocab_size,
        # Not --load, which would override that of a resumed run and start it from scratch.
        flags=model_flags(shape) + tokenizer_flags + ["--pretrained-checkpoint", str(out)],
        notes=[*source.notes, *filter(None, [note])],
    )


def _eod_token(description: ModelDescription, tokenizer: TextTokenizer) -> str | None:
    return None if description.eod_id is None else tokenizer.token_name(description.eod_id)


def _extra_states(num_layers: int) -> list[str]:
    layers = [
        f"decoder.layers.{module}._extra_state/shard_{layer}_{num_layers}"
        for module in _EXTRA_STATES
        for layer in range(num_layers)
    ]
    return [*layers, "decoder.final_layernorm._extra_state/shard_0_1"]


def megatron_args(shape: LlamaShape) -> dict[str, Any]:
    """The model as Megatron's arguments, as it keeps them in a checkpoint."""
    grouped = shape.num_query_groups != shape.num_attention_heads
    return {
        "num_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "ffn_hidden_size": shape.ffn_hidden_size,
        "num_attention_heads": shape.num_attention_heads,
        "group_query_attention": grouped,
        "num_query_groups": shape.num_query_groups,
        "kv_channels": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_positions,
        "add_position_embedding": True,
        "position_embedding_type": "rope",
        "rotary_base": int(shape.rope_base),
        "rotary_percent": 1.0,
        "rotary_interleaved": False,
        "use_rope_scaling": shape.rope_factor is not None,
        "rope_scaling_factor": shape.rope_factor or 8.0,
        "normalization": "RMSNorm",
        "layernorm_epsilon": shape.norm_epsilon,
        "swiglu": True,
        "add_bias_linear": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "untie_embeddings_and_output_weights": not shape.tied,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "world_size": 1,
        "data_parallel_size": 1,
    }


def model_flags(shape: LlamaShape, with_preset: bool = True) -> list[str]:
    """Flags of the model: a preset of the same sizes plus what differs from it, or all flags.

    Args:
        with_preset: False for all flags in any case. The presets train in bf16, in which a CPU without instructions
            for it takes several times as long.
    """
    flags = _all_flags(shape)
    for name, preset in PRESETS.items() if with_preset else ():
        known = _pairs(preset.to_flags())
        known = {"--group-query-attention": "", "--num-query-groups": known["--num-attention-heads"]} | known
        if (
            name != "debug"
            and preset.experts is None
            and all(known.get(flag) == flags.get(flag) for flag in _SAME_IN_A_PRESET)
        ):
            return ["--srp-preset", name, *_tokens({k: v for k, v in flags.items() if known.get(k) != v})]
    return _tokens(flags)


def _pairs(tokens: list[str]) -> dict[str, str]:
    """Flag to value, "" for a switch."""
    follows = [*tokens[1:], "--"]
    return {
        flag: "" if value.startswith("--") else value
        for flag, value in zip(tokens, follows, strict=True)
        if flag.startswith("--")
    }


def _tokens(flags: dict[str, str]) -> list[str]:
    return [token for flag, value in flags.items() for token in (flag, value) if token]


def _all_flags(shape: LlamaShape) -> dict[str, str]:
    flags: dict[str, object] = {
        "--num-layers": shape.num_layers,
        "--hidden-size": shape.hidden_size,
        "--ffn-hidden-size": shape.ffn_hidden_size,
        "--num-attention-heads": shape.num_attention_heads,
        "--group-query-attention": "",
        "--num-query-groups": shape.num_query_groups,
        "--kv-channels": shape.head_dim,
        "--max-position-embeddings": shape.max_positions,
        "--normalization": "RMSNorm",
        "--norm-epsilon": shape.norm_epsilon,
        "--swiglu": "",
        "--disable-bias-linear": "",
        "--attention-dropout": 0.0,
        "--hidden-dropout": 0.0,
        "--position-embedding-type": "rope",
        "--rotary-base": int(shape.rope_base),
    }
    if shape.head_dim * shape.num_attention_heads == shape.hidden_size:
        del flags["--kv-channels"]
    if not shape.tied:
        flags["--untie-embeddings-and-output-weights"] = ""
    if shape.rope_factor is not None:
        flags |= {"--use-rope-scaling": "", "--rope-scaling-factor": shape.rope_factor}
    return {flag: str(value) for flag, value in flags.items()}
