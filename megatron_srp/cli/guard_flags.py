"""The flags that choose a guard, for every command that has one."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from megatron_srp.errors import UsageError

if TYPE_CHECKING:
    from megatron_srp.annotation import Guard, GuardOptions

ENGINES = ("hf", "vllm", "http", "ray")
OLD_NAMES = {
    "--model": "--guard-model",
    "--tokenizer": "--guard-tokenizer",
    "--engine": "--guard-engine",
    "--engine-option": "--guard-option",
    "--threshold": "--guard-threshold",
    "--generate-all": "--guard-generate-all",
}
OLD_MODE_NAMES = {"--mode": "--guard-mode", "--user-turn": "--guard-user-turn"}
GUARD_HELP = (
    "which guard: small (words learned from public prompts, for demos and cascades), heuristic (a list of words, for "
    "tests), a chat guard (qwen3guard, llama-guard, llama-guard-4, wildguard, shieldgemma, granite-guardian, "
    "nemotron-safety-guard, aegis, polyguard, dynaguard, md-judge, gpt-oss-safeguard), qwen3guard-stream (every token "
    "judged), moderations (an endpoint's /v1/moderations), the YAML file of another chat guard, "
    "front:FILE (of srp train-guard), cascade:FILE.yaml (a cheap guard in front of an expensive one), "
    "ensemble:FILE.yaml (several guards), any-guardrail:NAME (from that package), or python:MODULE:CLASS (your own)"
)
CONTEXT_HELP = (
    "show a chat guard the N words of the document before each segment, as the user's turn; only the segment is "
    "judged (default: 0)"
)


def add_guard_flags(
    parser: argparse.ArgumentParser, required: bool = True, one_mode: bool = True, purpose: str = ""
) -> None:
    """Add `--guard` and the options of chat guards to `parser`.

    Args:
        one_mode: let the user choose one mode for all texts (`--guard-mode`, `--guard-user-turn`).
        purpose: a sentence on what the command needs the guard for, where that is not plain.
    """
    note = f"{purpose}\nThe other options are for chat guards; heuristic has none.".lstrip()
    group = parser.add_argument_group("guard", note)
    add = group.add_argument
    add("--guard", required=required, metavar="NAME", help=GUARD_HELP + ("" if required else " (default: none)"))
    add("--guard-model", metavar="DIR", help="the guard's weights: a folder or a name on the hub (default: its own)")
    add("--guard-tokenizer", metavar="DIR", help="the guard's tokenizer (default: the one of its weights)")
    add("--guard-engine", metavar="NAME", help=f"{', '.join(ENGINES)}, or an installed engine (default: hf)")
    add(
        "--guard-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine, such as batch_tokens=32768 or base_url=http://HOST:8000/v1, or of your own "
        "guard class; policy=FILE for dynaguard and gpt-oss-safeguard; may be repeated (default: none)",
    )
    if one_mode:
        add(
            "--guard-mode",
            choices=("prompt", "response"),
            help="judge each text as a user's prompt or as a response (default: prompt, if the guard can)",
        )
        add(
            "--guard-user-turn",
            metavar="TEXT",
            help="with --guard-mode response: the prompt that the texts answer (default: no user turn)",
        )
        add("--context-words", type=int, default=0, metavar="N", help=CONTEXT_HELP)
    add(
        "--guard-threshold",
        type=float,
        metavar="P",
        help="probability of harm from which a text is not Safe (default: the guard's own, or the most likely verdict)",
    )
    add(
        "--guard-generate-all",
        action="store_true",
        help="generate every answer in full instead of reading the verdict in one pass; far slower",
    )


def guard_options(args: argparse.Namespace) -> "GuardOptions":
    """The options of the guard that the flags describe.

    Raises:
        UsageError: when there are options and no `--guard`, or one is malformed.
    """
    from megatron_srp.annotation import GuardOptions

    options = GuardOptions(
        args.guard_model,
        args.guard_tokenizer,
        args.guard_engine or "hf",
        engine_options(args.guard_option),
        getattr(args, "guard_mode", None),
        getattr(args, "guard_user_turn", None),
        args.guard_threshold,
        args.guard_generate_all,
        getattr(args, "context_words", 0),
    )
    given = options.changed_flags()
    if args.guard is None and given:
        raise UsageError(f"{given[0]} is an option of a guard: pass --guard NAME too, or leave it out")
    return options


def guard_from_args(args: argparse.Namespace) -> "Guard":
    """The guard that the flags describe; raises UsageError."""
    from megatron_srp.annotation import load_guard

    return load_guard(args.guard, guard_options(args))


def engine_options(
    given: list[str], flag: str = "--guard-option", example: str = "batch_tokens=32768"
) -> dict[str, Any]:
    """The values of such a flag: `name=value`, where the value is JSON or, failing that, a plain string."""
    return dict(_option(text, flag, example) for text in given)


def _option(text: str, flag: str, example: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{flag} {text!r}: pass NAME=VALUE, such as {example}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
