"""How all commands parse their flags and print their help."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from megatron_srp.errors import CommandParser, UsageError
from megatron_srp.remote.drivers import on_s3


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of a description, and adds each flag's default where its help does not state it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        unstated = action.option_strings and text and "default" not in text and default is not argparse.SUPPRESS
        if not unstated or default is None or default == []:
            return text
        shown = "off" if default is False else " ".join(default) if isinstance(default, list) else "%(default)s"
        return f"{text} (default: {shown})"


class Parser(CommandParser):
    """The parser of one command.

    Args:
        old_names: former names of flags, and their present names. They work for one release, with a note.
    """

    def __init__(self, *, old_names: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **settings})
        self.register("type", Path, lambda given: Path(on_disk(given)))
        self._old_names = old_names or {}
        self._given: list[str] = []

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._given = [self._renamed(word) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(self._given, namespace)

    def error(self, message: str) -> NoReturn:
        """Report a misspelled flag even where argparse would only say that the right one is missing."""
        unknown = [word for word in self._given if word.startswith("--") and not self._knows(word)]
        if unknown and message.startswith("the following arguments are required"):
            message = f"unrecognized arguments: {unknown[0]}"
        super().error(message)

    def _knows(self, word: str) -> bool:
        return word.partition("=")[0] in self._option_string_actions

    def _renamed(self, word: str) -> str:
        old, equals, value = word.partition("=")
        if old not in self._old_names:
            return word
        print(f"note: {old} is now called {self._old_names[old]}", file=sys.stderr)
        return f"{self._old_names[old]}{equals}{value}"


def on_disk(given: str) -> str:
    """A type for argparse: `given`, unless it is a URL, which the command would take for folders."""
    if "://" in given:
        raise argparse.ArgumentTypeError(f"{given}: only local files can be used here; pass a path")
    return given


def on_disk_or_s3(given: str) -> str:
    """A type for argparse: `given`, unless it is a URL of another place than S3."""
    if "://" in given and not on_s3(given):
        raise argparse.ArgumentTypeError(
            f"{given}: is neither on this machine nor on S3; pass a path or s3://BUCKET/..."
        )
    return given


def require_at_least(least: int, args: argparse.Namespace, *flags: str) -> None:
    """Raise UsageError unless each of these flags is missing or a number of at least `least`."""
    for flag in flags:
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        if value is not None and value < least:
            raise UsageError(f"{flag} {value}: pass a number of at least {least}")


def next_step(command: str, to_stderr: bool = False) -> None:
    """Print the command that usually comes next; to stderr where stdout is for another program to read."""
    print(f"next: {command}", file=sys.stderr if to_stderr else sys.stdout)
