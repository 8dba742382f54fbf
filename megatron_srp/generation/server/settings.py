"""What the operator has set: for the server, and for each of its clients."""

from dataclasses import dataclass

from megatron_srp.generation.engines.request import Options

MAX_CHOICES = 8


@dataclass(frozen=True, slots=True)
class Client:
    """One who may ask, and for what.

    Attributes:
        options: defaults for answers; their number of tokens is also the maximum that a request gets.
        name: in metrics and the audit log; never the key.
        allow_weaker: whether a request may have a weaker guard than `options` has.
        completions: whether it may have raw text continued.
        max_choices: maximum answers to one request.
        max_answers: maximum that run or wait at a time; None for no limit of its own.
        requests_per_minute: None for no limit.
    """

    options: Options
    name: str = "default"
    allow_weaker: bool = False
    completions: bool = False
    max_choices: int = MAX_CHOICES
    max_answers: int | None = None
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the server.

    Attributes:
        name: the model's name for clients.
        client: whoever has no entry of its own.
        timeout_s: time limit for a request, including its time in the queue.
        body_bytes: maximum size of a request.
        origins: web pages whose scripts may ask, as `https://example.org`; `*` for all.
    """

    name: str
    client: Client
    timeout_s: float = 120.0
    body_bytes: int = 1 << 20
    origins: tuple[str, ...] = ()
