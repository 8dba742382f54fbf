"""Errors a user can cause, and how a command reports them.

SrpError                 base of all errors raised on purpose; one clear line, no traceback
├── UsageError           a flag, name or setting is wrong, or two of them clash      exit 2
├── InputError           a file, line or record cannot be used as it is              exit 2
├── GuardError           a guard cannot work, or fails on too many segments          exit 1
└── OutputError          a result cannot be written                                  exit 1

Each message says what was given, what is allowed and what to do.
"""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn


class SrpError(Exception):
    """Base of the errors this project raises on purpose."""

    exit_code = 2

    def __str__(self) -> str:
        """One line, even where it quotes a library's longer message."""
        return " ".join(line.strip() for line in super().__str__().splitlines())


class UsageError(SrpError):
    """A flag, name or setting is wrong, or two of them clash."""


class InputError(SrpError):
    """A file, line or record of the input cannot be used as it is."""


class GuardError(SrpError):
    """A guard cannot work: its endpoint is gone, or it fails on too many segments."""

    exit_code = 1


class OutputError(SrpError):
    """A result cannot be written: disk full, folder read-only, file in use."""

    exit_code = 1


def did_you_mean(name: str, known: list[str]) -> str:
    """The choices, and `; did you mean 'x'?` when `name` looks like a misspelling of one."""
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    shown = [repr(each) if ", " in each else each for each in sorted(known)]
    return f"choose from {', '.join(shown)}{hint}"


def is_utf8(name: str) -> bool:
    """Whether a string can be written as UTF-8; file names and JSON escapes can hold lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def explain_parse_error(message: str, flags: list[str], help_command: str = "--help") -> UsageError:
    """argparse's message, with the nearest of the `flags`, or of a flag's choices, when one looks misspelled.

    Args:
        help_command: what to name where nothing looks misspelled.
    """
    choice = re.match(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
    if choice:
        known = [name.strip("'") for name in choice[3].split(", ")]
        return UsageError(f"{choice[1]} {choice[2]!r}: {did_you_mean(choice[2], known)}")
    unknown = re.match(r"unrecognized arguments: .*?(--[\w-]+)", message)
    # A parser may have a thousand flags: name the likely one, not the choices.
    hint = did_you_mean(unknown[1], flags).partition("; ")[2] if unknown else ""
    return UsageError(f"{message}; {hint or f'see {help_command}'}")


class CommandParser(argparse.ArgumentParser):
    """argparse as all commands use it: no abbreviations, which a new flag would break, and errors as UsageError."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        named = f"`{self.prog} --help`" if self.prog.startswith("srp ") else "--help"
        raise explain_parse_error(message, list(self._option_string_actions), named)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command-line tool: user errors become one line on stderr and an exit code."""
    try:
        code = main() or 0
        sys.stdout.flush()
    except SrpError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:  # `tool | head`: the reader has gone, which is not our error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        advice = "; pass a shorter one" if error.errno == errno.ENAMETOOLONG else ""
        print(f"error: {error.strerror or error}: {error.filename or 'no file named'}{advice}", file=sys.stderr)
        code = 2 if advice else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
