"""The same attacks on vLLM's own server with the plug-in and its middleware (SRP_VLLM_PYTHON)."""

import json

import pytest

from tests.attack.guarantee import check, shown
from tests.attack.request_table import CHAT, KNIFE, REQUESTS, TEXT
from tests.helpers.served import KEY
from tests.helpers.tiny_reflector import make_tiny_reflector
from tests.helpers.vllm_served import VLLMServed

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module", params=["retract", "refuse"])
def served(request, tmp_path_factory):
    model = make_tiny_reflector(tmp_path_factory.mktemp("reflector"), head_dim=32)
    with VLLMServed(model, {"on_unsafe": request.param, "completions": True}) as server:
        yield request.param, server.wait()


def test_no_request_gets_more_than_the_policy_shows(served):
    policy, server = served
    authorization = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    asked = [(name, path, {"max_tokens": 60} | fields) for name, path, fields in REQUESTS]
    streams = [(f"{name}, stream", path, fields | {"stream": True}) for name, path, fields in asked]
    failed = []
    for name, path, fields in asked + [one for one in streams if one[1] in (CHAT, TEXT)]:
        body = {"model": "tiny", "temperature": 0} | fields
        try:
            check(policy, path, server.post(body, path, **authorization), json.dumps(fields), inline=True)
        except AssertionError as error:
            failed.append(f"{name}: {error}")
    assert not failed, "\n".join(failed)
    (text,) = shown(server.post({"model": "tiny", "temperature": 0, **KNIFE}, CHAT, **authorization))
    assert "morning." in text and ("kill" in text) == (policy != "retract")
