"""What a request may say. What would change an answer and is not supported is refused, not ignored."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from megatron_srp.errors import InputError

MOST_CHOICES = 128
# OpenAI's name for it, and the one that templates know.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class GuardOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`guard` of a request: a policy of its own, and whether to return what was reflected.

    Attributes:
        reflections: return the reflections, written and forced, as `guard` of each choice.
    """

    on_unsafe: Literal["off", "stop", "refuse", "retract"] | None = None
    stop_at: Annotated[list[Literal["Controversial", "Unsafe"]], Meta(min_length=1)] | None = None
    reflect_every: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None
    reflect_prompt: bool | None = None
    unsafe_threshold: Annotated[float, Meta(gt=0, le=1)] | None = None
    reflections: bool = False


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Common(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of request have in common."""

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
    # Accepted where they change nothing.
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    # About the request and not the answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]


class Part(msgspec.Struct):
    type: Literal["text"]
    text: str


class Message(msgspec.Struct):
    """One turn; fields that answers have and questions do not need are passed over."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    tool_calls: Any = None

    def as_turn(self) -> dict[str, str]:
        """The turn as chat templates want it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": ROLES[self.role], "content": text}


class ChatRequest(Common, kw_only=True):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    top_logprobs: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    response_format: Any = None
    modalities: Any = None


class TextRequest(Common, kw_only=True):
    """Body of /v1/completions. Prompts are text: token ids would pass the escaping by."""

    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=MOST_CHOICES)]
    echo: Any = None
    suffix: Any = None
    best_of: Any = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


# Values beside null that change nothing about an answer.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


def parse[Asked: Common](kind: type[Asked], body: bytes) -> Asked:
    """The request in `body`.

    Raises:
        InputError: when it is not JSON, or says something that is not known, not allowed or not supported.
    """
    try:
        asked = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the request cannot be read: {error}") from None
    for name, neutral in _NEUTRAL.items():
        value = getattr(asked, name, None)
        if value is not None and value not in neutral:
            raise InputError(f"{name}: not supported by this server; leave it out")
    if isinstance(asked, ChatRequest) and any(message.tool_calls for message in asked.messages):
        raise InputError("tool_calls: not supported by this server; leave them out")
    return asked
