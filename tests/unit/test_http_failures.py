"""The HTTP engine against a server on loopback that fails, hangs, is gone or lacks what was asked for."""

import random
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from megatron_srp.annotation.engines import load_engine
from megatron_srp.annotation.engines.http_engine import HTTPEngine
from megatron_srp.annotation.engines.http_retry import backoff_s
from megatron_srp.errors import GuardError, UsageError
from tests.helpers.endpoint import Endpoint
from tests.helpers.guard_endpoint import KEY, SAFE, UNSAFE, like_vllm, prompts, vllm_endpoint
from tests.helpers.ports import free_port


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("megatron_srp.annotation.engines.http_retry._LONGEST_WAIT_S", 0.01)
    monkeypatch.setenv("SRP_API_KEY", KEY)


@pytest.fixture
def endpoint():
    with vllm_endpoint() as server:
        yield server


@pytest.fixture
def engine(endpoint):
    engine = HTTPEngine("tiny", endpoint.url, timeout_s=600, tries=4, patience_s=600.0, prompts_per_request=2)
    yield engine
    engine.close()


def impatient(engine: HTTPEngine, fault, tries: int = 4) -> None:
    """Does not wait long for an answer where none will come."""
    if fault in ("hang", "drip"):
        engine._client.limits = replace(engine._client.limits, timeout_s=0.5, tries=tries)


@pytest.mark.parametrize("fault", [429, 500, 502, 503, (429, {"Retry-After": "0"}), "garbage", "reset", "hang", "drip"])
def test_what_may_pass_is_tried_again(fault, engine, endpoint):
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    endpoint.faults.extend([fault, fault])
    impatient(engine, fault, tries=100)  # on a stalled machine good answers come late too
    result = engine.next_token_logprobs(prompts([3], [7]), [SAFE, UNSAFE])
    assert np.isfinite(result).all()
    assert sum(engine.incidents.values()) >= 2 and not endpoint.faults
    assert all(name.startswith("requests tried again: ") for name in engine.incidents)


def test_trouble_is_told_once_and_not_at_every_try(engine, endpoint, capsys):
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    engine._client._notes.every_s = float("inf")
    endpoint.faults.extend([500, 503, 503])
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    told = f"warning: {engine._client.url}: HTTP 500 no 500 today, Bearer ***; trying again\n"
    assert capsys.readouterr().err == told
    engine._client._notes.every_s = 0
    endpoint.faults.append(503)
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    assert "HTTP 503 no 503 today, Bearer ***, 3 times since the last such line; trying" in capsys.readouterr().err


def test_what_does_not_pass_costs_only_its_own_prompts(engine, endpoint):
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    poison = 4

    def answer(body):
        return (400, {"error": {"message": "too long"}}) if [1, 2, poison] in body["prompt"] else like_vllm(body)

    endpoint.answer = answer
    result = engine.next_token_logprobs(prompts([3], [poison], [7], [8]), [SAFE, UNSAFE])
    assert np.isnan(result[1]).all() and np.isfinite(result[[0, 2, 3]]).all()
    assert engine.incidents == {"prompts without an answer: HTTP 400 too long": 1}
    assert engine.generate(prompts([poison], [8, 9]), 4, [99])[0].tolist() == []


@pytest.mark.parametrize("fault", ["garbage", 500, "hang"])
def test_an_endpoint_that_only_fails_stops_the_job(fault, engine, endpoint, monkeypatch):
    monkeypatch.setattr("megatron_srp.annotation.engines.http_client._BROKEN", 5)
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    endpoint.fault = fault
    impatient(engine, fault)
    with pytest.raises(GuardError, match="for 5 requests in a row; is it healthy"):
        engine.next_token_logprobs(prompts(*([i] for i in range(40))), [SAFE, UNSAFE])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (401, "HTTP 401 .*is SRP_API_KEY or OPENAI_API_KEY set"),
        (403, "HTTP 403 .*is SRP_API_KEY or OPENAI_API_KEY set"),
        (404, r"lists models but has no /completions \(HTTP 404\): .* vLLM or SGLang"),
        (429, "no better for 1 s"),
    ],
)
def test_what_no_request_would_survive_stops_at_once_without_the_key(fault, message, engine, endpoint):
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    endpoint.fault = fault
    engine._client.limits = replace(engine._client.limits, patience_s=1.0)
    with pytest.raises(GuardError, match=message) as error:
        engine.next_token_logprobs(prompts([3], [4]), [SAFE, UNSAFE])
    assert KEY not in str(error.value) and KEY not in repr(engine.incidents) and "\n" not in str(error.value)


def test_no_server_no_model_no_address(endpoint):
    with pytest.raises(UsageError, match="has no model 'tini'; choose from tiny; did you mean 'tiny'"):
        HTTPEngine("tini", endpoint.url)
    url = endpoint.url.replace("http://", "http://user:pass@")
    endpoint.fault = 500
    with pytest.raises(GuardError, match="no list of models") as error:
        HTTPEngine("tiny", url, tries=1)
    assert "pass" not in str(error.value)
    with pytest.raises(UsageError, match="endpoint 'localhost': pass its address"):
        load_engine("http", "tiny", base_url="localhost")
    endpoint.server.server_close()
    begun = time.monotonic()
    with pytest.raises(GuardError, match=r"cannot connect .* no better for 0.5 s"):
        HTTPEngine("tiny", endpoint.url, patience_s=0.5)
    assert time.monotonic() - begun > 0.3


def test_an_endpoint_that_is_gone_for_a_while_is_waited_for():
    with Endpoint(like_vllm, port=free_port()) as first:
        engine = HTTPEngine("tiny", first.url, patience_s=300.0, tries=2)
        engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    found = []
    asking = threading.Thread(
        target=lambda: found.append(engine.next_token_logprobs(prompts([3], [7]), [SAFE, UNSAFE]))
    )
    asking.start()
    deadline = time.monotonic() + 120
    while not engine.incidents["requests tried again: cannot connect"]:
        assert asking.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    with Endpoint(like_vllm, port=first.server.server_port):
        asking.join(300)
    engine.close()
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        *(("concurrency", value, "a whole number of at least 1") for value in (0, -1, 1.5, "many", True, None)),
        ("tries", 0, "a whole number of at least 1"),
        ("prompts_per_request", 0, "a whole number of at least 1"),
        ("max_length", "4k", "a whole number of at least 1"),
        *(("timeout_s", value, "a number of seconds above 0") for value in ("2m", 0, float("nan"), True)),
        ("patience_s", -1, "a number of seconds above 0"),
    ],
)
def test_options_that_are_no_such_number(option, value, allowed, endpoint):
    with pytest.raises(UsageError, match=f"^{option}={value}: pass {allowed}$"):
        load_engine("http", "tiny", base_url=endpoint.url, **{option: value})


def test_waiting_for_its_turn_costs_a_request_no_patience(endpoint):
    refused = []

    def slow(body):
        if body["prompt"] == [[1, 2, 8]] and not refused:
            refused.append(body)
            return (429, {"error": {"message": "later"}})
        time.sleep(0.2)
        return like_vllm(body)

    endpoint.answer = slow
    engine = HTTPEngine("tiny", endpoint.url, concurrency=1, patience_s=0.5, prompts_per_request=1)
    assert np.isfinite(engine.next_token_logprobs(prompts(*([i] for i in range(3, 9))), [SAFE, UNSAFE])).all()
    engine.close()
    assert refused


def test_never_more_requests_at_once_than_asked_for(endpoint):
    three_are_there = threading.Event()  # nobody is answered before

    def slow(body):
        if endpoint.most_at_once >= 3:
            three_are_there.set()
        assert three_are_there.wait(60)
        time.sleep(0.01)
        return like_vllm(body)

    engine = HTTPEngine("tiny", endpoint.url, concurrency=3, prompts_per_request=1)
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])  # the engine tries an endpoint with one request first
    endpoint.answer = slow
    engine.next_token_logprobs(prompts(*([i] for i in range(40))), [SAFE, UNSAFE])
    engine.close()
    assert endpoint.most_at_once == 3


def test_waits_grow_differ_and_respect_the_server(monkeypatch):
    monkeypatch.setattr("megatron_srp.annotation.engines.http_retry._LONGEST_WAIT_S", 30.0)
    rng = random.Random(0)
    waits = [[backoff_s(k, 0.0, rng) for _ in range(50)] for k in range(9)]
    assert all(0.25 * 2**k <= min(w) < max(w) <= 0.5 * 2**k for k, w in enumerate(waits[:6]))
    assert max(waits[8]) <= 30 and len(set(waits[0])) == 50
    assert backoff_s(0, 7.0, rng) > 7
