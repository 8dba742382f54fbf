"""What `presets` prints: a preset's flags for a number of GPUs, with their cost and the reasons."""

from megatron_srp.training.flags.command_line import format_flags
from megatron_srp.training.flags.model_preset import ModelPreset
from megatron_srp.training.flags.presets import PRESETS
from megatron_srp.training.layout.flops import flops_per_token
from megatron_srp.training.layout.memory import GIB
from megatron_srp.training.layout.recommend import WITHOUT_CONTEXT, Recommendation, recommend, tokens_per_step
from megatron_srp.training.plan import expand_flags


def _context_reason(preset: ModelPreset, best: Recommendation) -> str:
    kept = f"{best.memory.activations / GIB:.1f} GiB of activations"
    sequences = f"{best.layout.micro_batch} x {preset.recipe.seq_length:,} tokens"
    if best.layout.recompute:
        return f"{sequences} fit with {kept}, the rest recomputed; {WITHOUT_CONTEXT}"
    return f"{sequences} fit with {kept}; to spread a sequence over GPUs would only add communication"


def _parameters(preset: ModelPreset) -> str:
    whole = f"{preset.num_params:,} parameters"
    if preset.experts is None:
        return whole
    routed = f"{preset.experts.per_token} of {preset.experts.count} experts"
    return f"{whole}, {preset.num_active_params:,} of them active for a token ({routed})"


def describe(preset: ModelPreset, gpus: int, precision: str, seq_length: int | None = None) -> str:
    """The flags for that many GPUs, one per line, with comments on their cost and the reasons.

    Args:
        seq_length: tokens; None for the preset's own.
    """
    asked = ["--srp-preset", preset.name, "--srp-precision", precision, "--srp-layout", "auto"]
    if seq_length is not None:
        preset = preset.with_batch(seq_length, None)
        asked += ["--seq-length", str(seq_length)]
    best = recommend(preset, gpus, precision)
    tokens = tokens_per_step(preset, best.layout)
    return "\n".join(
        [
            f"# {preset.name}: {_parameters(preset)}. {preset.source_url}".rstrip(),
            f"# {flops_per_token(preset) / 1e9:.1f} GFLOP per token in sequences of {preset.recipe.seq_length}, "
            f"{tokens:,} tokens a step",
            f"# {gpus} x H100: {best.layout}",
            f"# why: {best.reason}",
            f"# CP 1: {_context_reason(preset, best)}",
            f"# memory of the fullest GPU, estimated: {best.memory}",
            f"# step time, estimated: {best.step_time}",
            format_flags(expand_flags(asked, gpus)),
        ]
    )


def list_presets() -> str:
    """All presets, one line each: name, parameters, sequence length, and where the shape comes from."""
    rows = [(p.name, f"{p.num_params:,}", f"{p.recipe.seq_length:,}", p.source_url) for p in PRESETS.values()]
    head = ("preset", "parameters", "sequence", "shape")
    return "\n".join(f"{a:<8}{b:>16}{c:>10}  {d}".rstrip() for a, b, c, d in [head, *rows])
