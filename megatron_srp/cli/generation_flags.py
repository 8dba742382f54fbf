"""The flags of a guarded model, for the commands that generate answers."""

import argparse
import sys
from typing import TYPE_CHECKING

from megatron_srp.cli.guard_flags import engine_options
from megatron_srp.cli.parser import require_at_least
from megatron_srp.errors import UsageError
from megatron_srp.generation.engines.limits import Limits
from megatron_srp.generation.guard.policy import DEFAULT_REFUSAL, ON_UNSAFE, GuardPolicy

if TYPE_CHECKING:
    from megatron_srp.generation.engines.prompted_model import PromptedModel
    from megatron_srp.generation.engines.request import Options
    from megatron_srp.generation.model_settings import ModelSettings

OLD_NAMES = {"--stop-at": "--stop-after"}
STOP_AFTER_HELP = (
    "verdicts that count as unsafe: Unsafe, Controversial, or Unsafe,Controversial (default: those that the model "
    "learned to stop at)"
)
THRESHOLD_HELP = (
    "P(unsafe) from which a verdict counts as unsafe (default: the one in the model's calibration.json, else 0.5)"
)
VERDICTS_BY_HELP = (
    "folder of another model that judges each prompt first, such as this one before it was fine-tuned, at that "
    "model's own calibrated threshold (default: none)"
)
DTYPES = ("bfloat16", "float16", "float32")


def add_generation_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the model, the guard and sampling."""
    add_model_flags(parser)
    add_policy_flags(parser)
    add = parser.add_argument_group("sampling").add_argument
    add("--max-new-tokens", type=int, default=256, metavar="N", help="maximum tokens per answer")
    add(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="sampling temperature; 0 takes the most likely token (default: 0)",
    )
    add(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the most likely tokens with this total probability",
    )


def add_batch_flags(group: "argparse._ArgumentGroup") -> None:
    """How much is generated at a time."""
    default = Limits()
    group.add_argument(
        "--batch-size", type=int, default=default.answers, metavar="N", help="maximum answers in a batch"
    )
    group.add_argument(
        "--max-batch-tokens",
        type=int,
        default=default.tokens,
        metavar="N",
        help="maximum tokens of all prompts and answers in a batch, which the KV cache has to hold",
    )


def limits_from_args(args: argparse.Namespace) -> Limits:
    """Raises UsageError for a number below 1."""
    require_at_least(1, args, "--batch-size", "--max-batch-tokens")
    return Limits(args.batch_size, args.max_batch_tokens)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add = group.add_argument
    add("--model", required=True, metavar="DIR", help="folder that `srp export` wrote, or a name on the hub")
    add("--engine", choices=["hf", "vllm"], default="hf", help="transformers, or vLLM on this machine's GPUs")
    add(
        "--engine-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="with --engine vllm: a field of vLLM's EngineArgs, such as tensor_parallel_size=2; may be repeated "
        "(default: none)",
    )
    add_device_flags(group)


def add_device_flags(group: argparse._ArgumentGroup) -> None:
    """Where the model runs, in which number format, and how its reflections are written."""
    add = group.add_argument
    add("--device", metavar="NAME", help="cuda, cuda:1 or cpu (default: a GPU where there is one)")
    add("--dtype", choices=DTYPES, help="number format (default: bfloat16 on a GPU, float32 on the CPU)")
    add(
        "--reflection-tokens",
        choices=["text", "special"],
        help="how the model writes <think>: as plain text or as a special token (default: what its srp.json says, else "
        "text)",
    )


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("guard").add_argument
    add(
        "--on-unsafe",
        choices=ON_UNSAFE,
        default="stop",
        help="what an unsafe verdict does. off: nothing, reflections are only hidden; stop: end the answer; refuse: "
        "show --refusal instead of the rest; retract: never show the unsafe segment",
    )
    add("--stop-after", metavar="VERDICTS", help=STOP_AFTER_HELP)
    add("--refusal", default=DEFAULT_REFUSAL, metavar="TEXT", help="what --on-unsafe refuse shows")
    add(
        "--reflect-every",
        type=int,
        default=0,
        metavar="N",
        help="force a reflection every N tokens; 0 for never (default: 0)",
    )
    add(
        "--reflect-prompt",
        action="store_true",
        help="force a reflection on the prompt; --reflect-every does so too",
    )
    add("--unsafe-threshold", type=float, metavar="P", help=THRESHOLD_HELP)
    add("--prompt-verdicts-by", metavar="DIR", help=VERDICTS_BY_HELP)


def settings_from_args(args: argparse.Namespace, model: str) -> "ModelSettings":
    """What the model's folder and the flags decide together; what is assumed is printed. Raises UsageError."""
    from megatron_srp.generation.model_settings import ModelSettings

    guarded = args.on_unsafe != "off"
    settings = ModelSettings.of(model, args.reflection_tokens, args.stop_after, args.unsafe_threshold, guarded)
    for note in settings.notes:
        print(f"note: {note}", file=sys.stderr)
    return settings


def options_from_args(args: argparse.Namespace, settings: "ModelSettings") -> "Options":
    """The policy and sampling that the flags describe, with `--seed` where a command has it; raises UsageError."""
    from megatron_srp.generation.engines.request import Options, Sampling

    policy = GuardPolicy(
        args.on_unsafe,
        settings.stop_at,
        args.refusal,
        args.reflect_every,
        args.reflect_prompt,
        settings.threshold,
    )
    if args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {args.max_new_tokens}: pass at least 1")
    return Options(policy, Sampling(args.temperature, args.top_p, getattr(args, "seed", 0)), args.max_new_tokens)


def load_from_args(args: argparse.Namespace, settings: "ModelSettings") -> "PromptedModel":
    """The model that the flags describe; another one, in transformers, judges its prompts where a flag says so. Raises
    UsageError."""
    if args.prompt_verdicts_by is None:
        return _load(args, settings)
    from megatron_srp.generation.engines.hf.model import GuardedModel
    from megatron_srp.generation.engines.prompt_judge import judge_prompts

    threshold = prompt_threshold_from_args(args, settings)
    model = _load(args, settings)
    judge_prompts(model, GuardedModel(args.prompt_verdicts_by, None, args.device, args.dtype), threshold)
    return model


def prompt_threshold_from_args(args: argparse.Namespace, settings: "ModelSettings") -> float:
    """P(unsafe) at which --prompt-verdicts-by stops a prompt; raises UsageError."""
    from megatron_srp.generation.engines.prompt_judge import prompt_threshold

    if args.on_unsafe == "off":
        raise UsageError("--prompt-verdicts-by stops unsafe prompts, and --on-unsafe off stops at nothing; drop one")
    policy = GuardPolicy(args.on_unsafe, settings.stop_at, unsafe_threshold=settings.threshold)
    return prompt_threshold(args.prompt_verdicts_by, policy)


def _load(args: argparse.Namespace, settings: "ModelSettings") -> "PromptedModel":
    given = engine_options(args.engine_option, "--engine-option", "tensor_parallel_size=2")
    if args.engine == "vllm":
        if args.device:
            raise UsageError("--device is for --engine hf; vLLM takes CUDA_VISIBLE_DEVICES")
        from megatron_srp.generation.engines.vllm import VLLMModel

        return VLLMModel(args.model, settings.form, args.dtype, **given)
    if given:
        raise UsageError("--engine-option is for --engine vllm")
    from megatron_srp.generation.engines.hf.model import GuardedModel

    return GuardedModel(args.model, settings.form, args.device, args.dtype)
