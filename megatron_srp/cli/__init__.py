"""The command line: `srp NAME ...` runs the file of this folder that the table names.

Every such file has `build_parser()`, from which the documentation and shell completion are made, and `main(argv)`,
which parses, calls a lower layer, prints, and returns the exit code or None. Nothing heavy is imported before the
flags are parsed: `--help`, a typo and completion answer at once.

A new command is a file with these two functions and a line in `COMMANDS`.
"""

from __future__ import annotations  # an older Python reads this file far enough to say that it is one

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import NamedTuple, NoReturn

PYTHON = (3, 12)


class Command(NamedTuple):
    """A line of the table: the file, the group it is listed in, and what it does."""

    module: str
    group: str
    help: str


COMMANDS = {
    "preprocess": Command("preprocess", "data", "write reflections into a corpus: Megatron shards, or sidecars"),
    "annotate": Command("annotate", "data", "judge every segment of a corpus and keep the verdicts"),
    "train-guard": Command(
        "train_guard", "data", "train a cheap first guard for a cascade from the verdicts of a store"
    ),
    "calibrate": Command("calibrate", "data", "choose the threshold of a cascade of guards, and bound what it misses"),
    "verdicts": Command("verdicts", "data", "list, show and change the verdicts of a store; changes are recorded"),
    "hints": Command("hints", "data", "have a chat model write hints for Safe segments (SRP-Hint)"),
    "sft": Command("sft", "data", "write reflections into chat data, for post-training and fine-tuning"),
    "inspect": Command("inspect", "shards", "show verdicts, densities and documents of a shard as an HTML page"),
    "show": Command("show", "shards", "print conversations of a post-training shard, learned tokens marked"),
    "verify": Command("verify", "shards", "check finished shards for damage"),
    "merge": Command("merge", "shards", "join finished shards, or print the blend that trains on them as they are"),
    "strip": Command("strip", "shards", "turn reflected shards back into plain ones"),
    "train": Command("train", "training", "pretrain or post-train with Megatron's trainer, on one or many GPUs"),
    "run": Command("run", "training", "run any Megatron script, unchanged, on data with reflections"),
    "presets": Command("presets", "training", "print a model size's flags, memory and layout for a number of GPUs"),
    "trace": Command("trace", "training", "find the documents that a step read, or the steps that read a document"),
    "export": Command("export", "training", "turn a Megatron checkpoint into a Hugging Face model"),
    "import": Command("import_", "training", "turn a Hugging Face Llama into a checkpoint to train from"),
    "generate": Command("generate", "generation", "answer a file of prompts, or chat, with the guard on"),
    "serve": Command("serve", "generation", "serve guarded answers over OpenAI's API"),
    "threshold": Command("threshold", "generation", "choose --unsafe-threshold from answers to known prompts"),
    "evaluate": Command("evaluate", "evaluation", "attack and evaluate a model: the paper's tables"),
    "compare": Command("compare", "evaluation", "compare two evaluations, with paired significance tests"),
    "gate": Command("gate", "evaluation", "compare a model with release criteria, and write its safety card"),
    "evaluate-guard": Command("evaluate_guard", "evaluation", "measure a guard on labelled texts"),
    "world": Command("world", "evaluation", "MedSafetyWorld, the paper's controlled experiment: make, run, report"),
    "check": Command("check", "this machine", "check the training stack, a cluster, or a training's checkpoints"),
    "smoke": Command("smoke", "this machine", "try the whole path on a small corpus, on the CPU"),
    "bench": Command("bench", "this machine", "measure speed, and write the figures to BENCHMARKS.md"),
    "completion": Command("completion", "this machine", "print a script that completes srp in bash or zsh"),
}

EPILOG = "`srp NAME --help` explains a command, `srp --version` names what is installed."


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; a user's mistake is one line on stderr."""
    if sys.version_info < PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"error: megatron-srp needs Python {PYTHON[0]}.{PYTHON[1]} or newer, and this is Python {found}")
    from megatron_srp.errors import run_command

    given = list(sys.argv[1:] if argv is None else argv)
    run_command(lambda: _run(given))


def _run(argv: list[str]) -> int | None:
    if argv[:1] == ["--version"]:
        from megatron_srp.cli.version import describe_versions

        print(describe_versions())
        return 0
    return dispatch("srp", COMMANDS, argv, EPILOG)


def dispatch(
    prog: str, commands: Mapping[str, Command], argv: list[str], epilog: str = "", default: str | None = None
) -> int | None:
    """Run the command that `argv` begins with; returns its exit code.

    Args:
        prog: what the user typed so far, for the help.
        default: the command to run where none is named.

    Raises:
        UsageError: for an unknown command, or a package that it needs and that is not installed.
    """
    from megatron_srp.errors import UsageError, did_you_mean
    from megatron_srp.missing_packages import missing_packages_explained

    if argv and argv[0] in ("-h", "--help"):
        print(describe_commands(prog, commands, epilog))
        return 0
    named = bool(argv) and not argv[0].startswith("-")
    name = argv[0] if named else default
    if name is None:
        raise UsageError(f"{prog}: name a command; `{prog} --help` lists them")
    if name not in commands:
        hint = did_you_mean(name, list(commands)).partition("; ")[2] or f"`{prog} --help` lists them"
        raise UsageError(f"{prog} has no command {name!r}; {hint}")
    with missing_packages_explained(f"{prog} {name}"):
        return load(commands[name]).main(argv[1:] if named else argv)


def load(command: Command) -> ModuleType:
    """The command's file, imported."""
    return import_module(f"{__name__}.{command.module}")


def describe_commands(prog: str, commands: Mapping[str, Command], epilog: str = "") -> str:
    """The text of `--help`: the commands, by group."""
    width = max(map(len, commands)) + 2
    lines = [f"usage: {prog} NAME ..."]
    group = ""
    for name, command in commands.items():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"]
        lines.append(f"  {name:{width}}{command.help}")
    return "\n".join([*lines, "", epilog]).rstrip()
