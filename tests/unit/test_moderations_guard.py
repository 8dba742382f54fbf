"""`--guard moderations` against a server on loopback that answers as OpenAI's does, and misbehaves."""

import json

import numpy as np
import pytest

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.errors import GuardError, UsageError
from megatron_srp.generation.server.moderations import parse_moderation
from megatron_srp.schema import Verdict
from tests.helpers.endpoint import Endpoint


def like_openai(body):
    def result(text):
        violent = 0.9 if "bomb" in text else 0.4 if "knife" in text else 0.01
        scores = {"violence": violent, "self-harm/intent": 0.02, "unsafe": violent}
        return {
            "flagged": violent > 0.5,
            "categories": {name: score > 0.5 for name, score in scores.items()},
            "category_scores": scores,
        }

    if "poison" in body["input"]:
        return 400, {"error": {"message": "no"}}
    return {"id": "modr-1", "model": "omni", "results": [result(text) for text in body["input"]]}


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr("megatron_srp.annotation.engines.http_retry._LONGEST_WAIT_S", 0.01)
    with Endpoint(like_openai) as server:
        yield server


def load(endpoint, threshold=None, **options):
    options = {"base_url": endpoint.url, "texts_per_request": 2, "tries": 3} | options
    return load_guard("moderations", GuardOptions(model="omni", threshold=threshold, engine_options=options))


def test_what_is_flagged_is_unsafe_with_its_categories(endpoint):
    guard = load(endpoint)
    endpoint.faults += [500, "garbage"]
    results = guard.results(["a bomb", "a river", "a knife"])
    assert [one.label.verdict for one in results] == [Verdict.UNSAFE, Verdict.SAFE, Verdict.SAFE]
    assert results[0].label.categories == ("violence",)
    assert [one.score for one in results] == pytest.approx([0.9, 0.98, 0.6])
    assert guard.harm_probabilities(["a knife"]) == pytest.approx(np.array([0.4], np.float32))
    assert guard.incidents.total() == 2 and guard.results([]) == []
    assert all(body["model"] == "omni" and len(body["input"]) <= 2 for body in endpoint.requests)
    guard.close()


def test_a_threshold_replaces_the_endpoints_own(endpoint):
    guard = load(endpoint, threshold=0.3)
    assert [str(label.verdict) for label in guard.classify(["a knife", "a river"])] == ["Unsafe", "Safe"]
    assert guard.settings["threshold"] == 0.3 and guard.settings["url"] == endpoint.url
    guard.close()


def test_a_refused_text_costs_its_neighbours_nothing(endpoint):
    guard = load(endpoint)
    good, bad = guard.results(["a bomb", "poison"])
    assert good.label.verdict is Verdict.UNSAFE and bad.failure.startswith("the endpoint gave no verdict: HTTP 400 no")
    guard.close()


def test_requests_are_those_that_our_own_server_reads(endpoint):
    guard = load(endpoint)
    guard.classify(["a river", "a lake"])
    assert parse_moderation(json.dumps(endpoint.requests[-1]).encode()).given == ["a river", "a lake"]
    guard.close()


def test_mistakes_are_one_line(endpoint):
    with pytest.raises(UsageError, match=r"accepts --guard-model, .* and not --guard-mode"):
        load_guard("moderations", GuardOptions(mode="prompt"))
    with pytest.raises(UsageError, match=r"--guard moderations.*nonsense"):
        load(endpoint, nonsense=1)
    with pytest.raises(UsageError, match="pass its address"):
        load(endpoint, base_url="nowhere")
    guard = load(endpoint)
    endpoint.faults.append(404)
    with pytest.raises(GuardError, match="is the address right"):
        guard.classify(["x"])
    guard.close()
