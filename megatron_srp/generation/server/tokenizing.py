"""/tokenize: the tokens that the model would read, in vLLM's form. User text is escaped, as for an answer."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from megatron_srp.errors import InputError
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.server.api import Message, read_fields


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Body of /tokenize: a text, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """Raises InputError for what cannot be read, and for both or neither of `prompt` and `messages`."""
    asked = read_fields(TokenizeRequest, body)
    if (asked.prompt is None) == (asked.messages is None):
        raise InputError("pass either prompt or messages")
    return asked


def tokenize(model: PromptedModel, asked: TokenizeRequest) -> dict[str, Any]:
    """Raises InputError where the model would refuse the prompt."""
    options = Options(GuardPolicy(), Sampling())
    if asked.messages is not None:
        request = model.chat([message.as_turn() for message in asked.messages], options)
    else:
        model.refuse_unfinished(asked.prompt or "")
        request = model.complete(asked.prompt or "", options)
    tokens = list(request.prompt)
    return {"tokens": tokens, "count": len(tokens), "max_model_len": model.max_length}
