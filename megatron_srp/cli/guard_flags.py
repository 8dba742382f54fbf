"""The flags that choose a guard, for every command that has one."""

import argparse
import json
from typing import Any

from megatron_srp.annotation import Guard, GuardOptions, load_guard
from megatron_srp.errors import UsageError


def add_guard_arguments(parser: argparse.ArgumentParser, required: bool = True, one_mode: bool = True) -> None:
    """Add `--guard` and the options of chat guards to `parser`.

    Args:
        one_mode: let the user choose what all texts are judged as (`--mode`, `--user-turn`).
    """
    add = parser.add_argument_group("guard").add_argument
    add(
        "--guard",
        required=required,
        metavar="NAME",
        help="who judges: heuristic (for demos and tests), qwen3guard, llama-guard, the YAML file of another "
        "chat guard, or python:MODULE:CLASS",
    )
    add("--model", metavar="DIR", help="weights of a chat guard: a folder or a name on the hub (default: the guard's)")
    add("--tokenizer", metavar="DIR", help="its tokenizer (default: the model's)")
    add("--engine", default="hf", metavar="NAME", help="what runs it: hf, vllm, http or ray (default: hf)")
    add(
        "--engine-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine, such as batch_tokens=32768, or of your own class; may be given again",
    )
    if one_mode:
        add("--mode", metavar="MODE", help="judge each text as a prompt or as a response (default: prompt)")
        add("--user-turn", metavar="TEXT", help="with --mode response: what the text answers (default: no user turn)")
    add(
        "--threshold",
        type=float,
        metavar="P",
        help="not safe from this probability on (default: the likeliest verdict)",
    )
    add("--generate-all", action="store_true", help="let the model write every answer in full, which is far slower")


def guard_from_args(args: argparse.Namespace) -> Guard:
    """The guard that the flags of `add_guard_arguments` describe; raises UsageError."""
    options = GuardOptions(
        args.model,
        args.tokenizer,
        args.engine,
        engine_options(args.engine_option),
        getattr(args, "mode", None),
        getattr(args, "user_turn", None),
        args.threshold,
        args.generate_all,
    )
    return load_guard(args.guard, options)


def engine_options(given: list[str]) -> dict[str, Any]:
    """The values of `--engine-option`: `name=value`, where the value is JSON or else a plain word."""
    return dict(_option(text) for text in given)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"option {text!r}: give NAME=VALUE, such as batch_tokens=32768")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
