"""Several API keys, each with its own limits and policy, from a YAML file that is read again on SIGHUP.

    - name: research
      key: sk-...
      policy: {on_unsafe: retract, reflect_every: 64}
      max_new_tokens: 512
      max_answers: 4
      requests_per_minute: 60

What an entry leaves out is as the flags say.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from msgspec import Meta

from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.server.api import GuardOptions
from megatron_srp.generation.server.client_policy import policy_of
from megatron_srp.generation.server.settings import Client

_Count = Annotated[int, Meta(ge=1)]


class PolicyEntry(GuardOptions, forbid_unknown_fields=True):
    """An entry's policy; the file is the operator's, so it may be weaker than the flags."""


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One key of the file. Fields as of `Client`."""

    name: Annotated[str, Meta(min_length=1)]
    key: Annotated[str, Meta(min_length=8)]
    policy: PolicyEntry = msgspec.field(default_factory=PolicyEntry)
    allow_weaker: bool | None = None
    completions: bool | None = None
    max_new_tokens: _Count | None = None
    max_choices: _Count | None = None
    max_answers: _Count | None = None
    requests_per_minute: _Count | None = None

    def client(self, flags: Client) -> Client:
        """The client that the flags describe, with this entry's changes."""
        names = ("allow_weaker", "completions", "max_choices", "max_answers", "requests_per_minute")
        changes = {name: value for name in names if (value := getattr(self, name)) is not None}
        policy = policy_of(flags.options.policy, self.policy, allow_weaker=True)
        most = self.max_new_tokens or flags.options.max_new_tokens
        options = replace(flags.options, policy=policy, max_new_tokens=most)
        return replace(flags, name=self.name, options=options, **changes)


def read_keys(path: Path, flags: Client) -> dict[str, Client]:
    """The clients of a file, by key.

    Raises:
        InputError: when it cannot be read, or an entry is wrong; keys are not part of the message.
    """
    try:
        found = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), list[Entry])
        clients = {entry.key: entry.client(flags) for entry in found}
    except OSError as error:
        raise InputError(f"--keys {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        where = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        raise InputError(f"--keys {where}: not YAML ({error.problem})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError(f"--keys {path}: not YAML in UTF-8") from None
    except (msgspec.ValidationError, UsageError) as error:
        raise InputError(f"--keys {path}: {error}") from None
    if not clients or len(clients) < len(found) or len({entry.name for entry in found}) < len(found):
        raise InputError(f"--keys {path}: needs at least one entry, and no key or name twice")
    return clients
