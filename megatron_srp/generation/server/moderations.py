"""/v1/moderations: the model's verdict on a text or on the last turn of a conversation, in OpenAI's form."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from megatron_srp.errors import InputError
from megatron_srp.generation.engines.judging import names_in, request_to_name, requests_to_judge, worst
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Request
from megatron_srp.generation.guard.policy import ForcedReflection, Generation, GuardPolicy
from megatron_srp.generation.server.api import Message, Part, read_fields
from megatron_srp.generation.server.outcomes import category_names
from megatron_srp.schema import Verdict

MOST_INPUTS = 32


class ModerationRequest(msgspec.Struct, kw_only=True):
    """Body of /v1/moderations. `messages` is this server's own."""

    model: str | None = None
    input: str | Annotated[list[str | Part], Meta(min_length=1, max_length=MOST_INPUTS)] | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None

    @property
    def given(self) -> list[str | list[dict[str, str]]]:
        """What each result is about."""
        if self.messages is not None:
            return [[message.as_turn() for message in self.messages]]
        if isinstance(self.input, str) or self.input is None:
            return [self.input or ""]
        texts = [part for part in self.input if isinstance(part, str)]
        return [*texts] or ["".join(part.text for part in self.input if isinstance(part, Part))]

    @property
    def mixed(self) -> bool:
        """Whether `input` has both texts, each with a result, and parts of one."""
        return isinstance(self.input, list) and len({type(part) for part in self.input}) > 1


def parse_moderation(body: bytes) -> ModerationRequest:
    """Raises InputError for what cannot be read, and for both or neither of `input` and `messages`."""
    asked = read_fields(ModerationRequest, body)
    if (asked.input is None) == (asked.messages is None):
        raise InputError("pass either input or messages")
    if asked.mixed:
        raise InputError("input: pass texts, or the parts of one text, not both")
    return asked


def moderation_requests(model: PromptedModel, policy: GuardPolicy, asked: ModerationRequest) -> list[list[Request]]:
    """For each result, a request for each verdict."""
    return [requests_to_judge(model, given, policy) for given in asked.given]


@dataclass(frozen=True, slots=True)
class Moderated:
    """One result.

    Attributes:
        verdict: the worst of its segments.
        judged: the request that read it.
        categories: what the model writes after the verdict, where that is flagged.
    """

    verdict: ForcedReflection
    judged: Request
    categories: tuple[str, ...] = ()

    @classmethod
    def of(cls, requests: Sequence[Request], found: Sequence[ForcedReflection], policy: GuardPolicy) -> "Moderated":
        """Of all segments of one text."""
        at = worst(found, policy)
        return cls(found[at], requests[at])

    def flagged(self, policy: GuardPolicy) -> bool:
        return self.verdict.label(policy).verdict in policy.stop_at

    def naming(self, model: PromptedModel, policy: GuardPolicy) -> Request:
        """The request for the categories."""
        return request_to_name(model, self.judged, self.verdict.label(policy).verdict)

    def named(self, model: PromptedModel, answer: Generation) -> "Moderated":
        """With the categories in the answer to that request."""
        return replace(self, categories=tuple(category_names(names_in(model, answer))))


def moderation_reply(name: str, policy: GuardPolicy, found: Sequence[Moderated]) -> dict[str, Any]:
    """The results; of several segments, the scores of the worst."""
    return {"id": f"modr-{uuid.uuid4().hex}", "model": name, "results": [_result(one, policy) for one in found]}


def _result(found: Moderated, policy: GuardPolicy) -> dict[str, Any]:
    verdict = found.verdict
    label = verdict.label(policy).verdict
    scores = {Verdict.UNSAFE.lower(): verdict.unsafe, Verdict.CONTROVERSIAL.lower(): verdict.controversial}
    # The model has one probability for a verdict, and none for each category.
    own = dict.fromkeys(found.categories, scores.get(label.lower(), 0.0))
    return {
        "flagged": found.flagged(policy),
        "categories": {name: name == label.lower() for name in scores} | dict.fromkeys(own, True),
        "category_scores": scores | own,
    }
