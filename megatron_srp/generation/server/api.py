"""The fields of a request. An unsupported field that would change an answer is refused, not ignored."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from megatron_srp.errors import InputError

# The escapes of a JSON string: a surrogate pair, half of one, any other.
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
MOST_CHOICES = 128
MOST_LOGPROBS = 5
# OpenAI's name for each role, and the one that templates know.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


class UnsupportedField(InputError):
    """A request has a field that this server does not honour.

    Attributes:
        param: its name, as OpenAI's errors have it.
    """

    def __init__(self, param: str) -> None:
        super().__init__(f"{param}: not supported by this server; leave it out")
        self.param = param


class GuardOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`guard` of a request: its own policy, and whether to return the reflections.

    Attributes:
        reflections: return the reflections, written and forced, as `guard` of each choice.
    """

    on_unsafe: Literal["off", "stop", "refuse", "retract"] | None = None
    stop_at: Annotated[list[Literal["Controversial", "Unsafe"]], Meta(min_length=1)] | None = None
    reflect_every: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None
    reflect_prompt: bool | None = None
    unsafe_threshold: Annotated[float, Meta(gt=0, le=1)] | None = None
    reflections: bool = False


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`stream_options`; every piece is as long as its text, whatever `include_obfuscation` says."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Common(msgspec.Struct, kw_only=True):
    """Fields that both kinds of request have and the server honours. `parse` refuses all others."""

    model: str
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    guard: GuardOptions = msgspec.field(default_factory=GuardOptions)

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]


class Part(msgspec.Struct):
    """A piece of a turn; only text is supported."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct):
    """One turn. A `name` is written before its content, and a `tool_call_id` where the chat template has one."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: Annotated[str, Meta(max_length=64)] | None = None
    tool_call_id: Annotated[str, Meta(max_length=64)] | None = None

    def as_turn(self) -> dict[str, str]:
        """The turn as chat templates expect it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        turn = {"role": ROLES[self.role], "content": f"{self.name}: {text}" if self.name else text}
        return turn | ({"tool_call_id": self.tool_call_id} if self.tool_call_id else {})


class ChatRequest(Common, kw_only=True):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] | None = None

    @property
    def num_prompts(self) -> int:
        return 1

    @property
    def most_tokens(self) -> int | None:
        """The newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many other tokens each one shown is to be compared with; None where no probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextRequest(Common, kw_only=True):
    """Body of /v1/completions.

    With `echo` and `logprobs` it scores the tokens of prompts, which may be ids then, and generates nothing; else
    prompts are text, since ids would bypass the escaping, and `logprobs` are of the answer's tokens.
    """

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] | None = None

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """As that of a conversation."""
        return None if self.echo else self.logprobs

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """All texts, or all lists of ids; raises InputError for a mixture, and for ids that are not scored."""
        given: list[Any] = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)
        if all(isinstance(one, int) for one in given):
            given = [given]
        kinds = {type(one) for one in given}
        if kinds == {str} or (kinds == {list} and self.echo):
            return given
        raise InputError("prompt: pass texts; token ids are taken only with echo and logprobs, to be scored")

    @property
    def num_prompts(self) -> int:
        return len(self.prompts)


# Fields about the request, not the answer.
ABOUT_THE_REQUEST = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
)
# Values of unsupported fields that do not change an answer.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),  # there are no tools
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}
# The same for a turn: what one of our answers, sent back, may have.
_NEUTRAL_IN_TURNS: dict[str, tuple[Any, ...]] = {"tool_calls": ([],), "annotations": ([],)}


def parse[Asked: Common](kind: type[Asked], body: bytes) -> Asked:
    """The request in `body`.

    Raises:
        InputError: when it is not JSON, or has something unknown, not allowed or not supported.
    """
    asked = read_fields(kind, body)
    if isinstance(asked, ChatRequest) and asked.max_tokens not in (None, asked.most_tokens):
        raise InputError("max_tokens and max_completion_tokens differ; leave one out")
    if isinstance(asked, ChatRequest) and asked.top_logprobs and not asked.logprobs:
        raise InputError("top_logprobs needs logprobs: true")
    if isinstance(asked, TextRequest):
        _check_text(asked)
    return asked


def _check_text(asked: TextRequest) -> None:
    if asked.echo and asked.logprobs is None:
        raise InputError("echo needs logprobs, to score the tokens of prompts; pass both, or leave echo out")
    if asked.echo and (asked.stream or (asked.n or 1) > 1 or (asked.max_tokens or 0) > 1):
        raise InputError("echo scores prompts and generates nothing; pass max_tokens 0 or 1, without stream and n")
    if not asked.echo and asked.max_tokens == 0:
        raise InputError("max_tokens 0: pass at least 1, or echo and logprobs to score a prompt")


def read_fields[Asked: msgspec.Struct](kind: type[Asked], body: bytes) -> Asked:
    """The fields of any kind of request; raises InputError as `parse` does."""
    try:
        given = _honoured(msgspec.json.decode(body, type=dict[str, Any]), kind, _NEUTRAL)
        turns = given.get("messages")
        if isinstance(turns, list):
            given["messages"] = [
                _honoured(turn, Message, _NEUTRAL_IN_TURNS, f"messages[{i}].") if isinstance(turn, dict) else turn
                for i, turn in enumerate(turns)
            ]
        return msgspec.convert(given, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the request cannot be read: {_half_a_pair(body) or error}") from None


def _half_a_pair(body: bytes) -> str:
    """That it has a lone surrogate, which JSON allows and no text has; "" where it has none."""
    for escape in _ESCAPES.finditer(body):
        if escape["half"]:
            half = escape["half"].decode()
            return f"\\{half} at byte {escape.start()} is half of a surrogate pair; pass both halves, or leave it out"
    return ""


def _honoured(
    given: dict[str, Any], kind: type[msgspec.Struct], neutral: dict[str, tuple[Any, ...]], where: str = ""
) -> dict[str, Any]:
    """The fields of `given` that `kind` has; null counts as absent. Refuses others, unless they change nothing."""
    honoured = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in kind.__struct_fields__:
            honoured[name] = value
        elif name not in ABOUT_THE_REQUEST and not any(_same(value, one) for one in neutral.get(name, ())):
            raise UnsupportedField(f"{where}{name}")
    return honoured


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)  # to Python, False is 0
