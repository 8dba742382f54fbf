"""SECURITY.md, as checks of a response: what a client may and may not have seen."""

import json
from typing import Any

import httpx

from tests.attack.request_table import CHAT, TEXT

UNSAFE = ("kill", "bomb")  # what the miniature model finds unsafe
ENDS = {"stop", "length", "content_filter"}


def check(policy: str, path: str, found: httpx.Response, sent: str, inline: bool = False) -> None:
    """Raises AssertionError where the response breaks the guarantee of a policy.

    Args:
        sent: the request; what the client said itself is no secret.
        inline: whether forced reflections are part of the text, as in vLLM. Then `retract` withholds what a limit cuts
            off instead of judging it.
    """
    assert found.status_code < 500, f"{found.status_code} {found.text}"
    if found.status_code >= 400:
        error = found.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"], found.text
        return
    if policy == "retract":
        secret = [word for word in UNSAFE if word not in sent]
        spelled = [_spelled(end.get("logprobs") or {}) for end in _ends(found)] if path in (CHAT, TEXT) else []
        assert not any(word in text for word in secret for text in (found.text, *spelled)), found.text
    for end in _ends(found) if path in (CHAT, TEXT) else []:
        guard = end.get("guard", {})
        withheld = inline and policy == "retract" and end["finish_reason"] == "length"
        assert end["finish_reason"] in ENDS and (withheld or guard.get("unjudged_tokens", 0) == 0), end
        assert "<think>" not in json.dumps(end.get("message") or end.get("text"))


def _spelled(logprobs: dict[str, Any]) -> str:
    """The tokens whose probabilities are there, in one text."""
    return "".join(logprobs.get("tokens") or [token["token"] for token in logprobs.get("content") or []])


def _ends(found: httpx.Response) -> list[dict[str, Any]]:
    """The last choice of each answer, of a whole response or of a stream's events."""
    if found.headers["content-type"] == "application/json":
        return found.json()["choices"]
    events = [line.removeprefix("data: ") for line in found.text.split("\n\n") if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    ends = [choice for choice in choices if choice["finish_reason"]]
    assert len(ends) == len({choice["index"] for choice in choices})
    return ends


def shown(found: httpx.Response) -> list[str]:
    """The texts of all answers of a response that is no stream."""
    return [choice["message"]["content"] for choice in found.json()["choices"]]
