"""The HTTP engine against a real server on loopback that misbehaves; `tests/integration/test_serving.py` has
a real model behind one."""

import math
import random
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from megatron_srp.annotation.engines import Prompts, load_engine
from megatron_srp.annotation.engines.http_answers import read_logprobs
from megatron_srp.annotation.engines.http_engine import HTTPEngine
from megatron_srp.annotation.engines.http_retry import backoff_s
from megatron_srp.annotation.guards.verdict_tokens import verdict_logprobs
from megatron_srp.errors import GuardError, UsageError
from megatron_srp.tokenization import TokenBatch
from megatron_srp.verdict_tree import VerdictTree
from tests.helpers.endpoint import Endpoint
from tests.helpers.tiny_guard import make_tokenizer

SAFE, UNSAFE, OTHER, UN, SURE = 11, 12, 13, 14, 15
KEY = "sk-very-secret-key"


def prompts(*rests: list[int]) -> Prompts:
    return Prompts(np.array([1, 2], np.int32), TokenBatch.from_lists([list(rest) for rest in rests]))


def score(prompt: list[int]) -> dict[str, float]:
    """The model: Unsafe where the prompt ends with 7."""
    worst = prompt[-1] == 7
    return {f"token_id:{SAFE}": -3.0 if worst else -0.1, f"token_id:{UNSAFE}": -0.2 if worst else -4.0}


def like_vllm(body: dict) -> dict:
    choices = [
        {
            "index": i,
            "text": "x",
            "token_ids": [*prompt[-2:], 99, 5],
            "logprobs": {"top_logprobs": [score(prompt)]},
        }
        for i, prompt in enumerate(body["prompt"])
    ]
    usage = {"prompt_tokens": sum(map(len, body["prompt"]))}
    return {"model": body["model"], "choices": choices[::-1], "usage": usage}


def like_sglang(body: dict) -> dict:
    """Takes token ids, knows no allowed ones, names the likeliest by their texts, and writes texts without ids."""
    shares = {" Safe": -0.2, " Unsafe": -1.9, "\n": -4.0, " Perhaps": -5.0}
    top = dict(list(shares.items())[: body.get("logprobs") or 0])
    choices = [
        {"index": i, "text": " Violent<|im_end|>", "logprobs": {"tokens": [" Safe"], "top_logprobs": [top]}}
        for i in range(len(body["prompt"]))
    ]
    usage = {"prompt_tokens": sum(map(len, body["prompt"])), "total_tokens": 9, "prompt_tokens_details": None}
    return {"object": "text_completion", "model": body["model"], "choices": choices, "usage": usage}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("megatron_srp.annotation.engines.http_retry._LONGEST_WAIT_S", 0.01)
    monkeypatch.setenv("SRP_API_KEY", KEY)


@pytest.fixture
def endpoint():
    with Endpoint(like_vllm, max_model_len=4096) as server:
        yield server


@pytest.fixture
def engine(endpoint):
    engine = HTTPEngine("tiny", endpoint.url, timeout_s=30, tries=4, patience_s=60.0, prompts_per_request=2)
    yield engine
    engine.close()


def impatient(engine: HTTPEngine, fault) -> None:
    """Does not wait long for an answer where none will come."""
    if fault in ("hang", "drip"):
        engine._client.limits = replace(engine._client.limits, timeout_s=0.5)


def test_log_probabilities_come_back_in_order_and_on_the_right_tokens(engine, endpoint):
    rows = [[i] for i in range(23)]
    result = engine.next_token_logprobs(prompts(*rows), [UNSAFE, SAFE])
    expected = [[-0.2, -3.0] if i == 7 else [-4.0, -0.1] for i in range(23)]
    assert result.dtype == np.float32 and result == pytest.approx(np.array(expected))
    sent = [prompt for body in endpoint.requests[1:] for prompt in body["prompt"]]
    assert sorted(sent) == [[1, 2, i] for i in range(23)] and len(endpoint.requests) == 1 + 12
    last = endpoint.requests[-1]
    assert last["allowed_token_ids"] == last["logprob_token_ids"] == [UNSAFE, SAFE]
    assert last["max_tokens"] == 1 and last["temperature"] == 0
    assert endpoint.headers["Authorization"] == f"Bearer {KEY}"
    assert engine.max_length == 4096


def test_verdicts_of_several_tokens(engine, endpoint):
    """Two begin with the same token; where the model cannot get there, it is not asked what follows."""
    after_un = {f"token_id:{SAFE}": -2.0, f"token_id:{SURE}": -0.25}

    def answer(body):
        told = like_vllm(body)
        for choice, prompt in zip(told["choices"][::-1], body["prompt"], strict=True):
            reached = -0.5 if prompt[-1] == 7 else -9999.0
            first = {f"token_id:{SAFE}": score(prompt)[f"token_id:{SAFE}"], f"token_id:{UN}": reached}
            scores = after_un if prompt[-1] == UN else first
            choice["logprobs"] = {"top_logprobs": [scores]}
        return told

    endpoint.answer = answer
    found = verdict_logprobs(engine, prompts([3], [7], [5]), VerdictTree.of([[SAFE], [UN, SAFE], [UN, SURE]]))
    np.testing.assert_allclose(found, [[-0.1, -9999, -9999], [-3.0, -2.5, -0.75], [-0.1, -9999, -9999]], rtol=1e-6)
    sent = [prompt for body in endpoint.requests[1:] for prompt in body["prompt"]]
    assert sorted(sent) == [[1, 2, 3], [1, 2, 5], [1, 2, 7], [1, 2, 7, UN]]


def test_generation_ends_before_the_first_stop_token(engine):
    first, second = engine.generate(prompts([5, 6], [7, 8]), 10, [99])
    assert first.tolist() == [5, 6] and second.tolist() == [7, 8] and first.dtype == np.int32


@pytest.mark.parametrize("fault", [429, 500, 502, 503, (429, {"Retry-After": "0"}), "garbage", "reset", "hang", "drip"])
def test_what_may_pass_is_tried_again(fault, engine, endpoint):
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
    endpoint.faults.extend([fault, fault])
    impatient(engine, fault)
    result = engine.next_token_logprobs(prompts([3], [7]), [SAFE, UNSAFE])
    assert np.isfinite(result).all()
    assert sum(engine.incidents.values()) >= 2 and not endpoint.faults
    assert all(name.startswith("requests tried again: ") for name in engine.incidents)


def test_trouble_is_told_once_and_not_at_every_try(engine, endpoint, capsys):
    engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])
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
    with Endpoint(like_vllm) as first:
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


def test_another_model_behind_the_endpoint_is_refused(engine, endpoint):
    endpoint.answer = lambda body: like_vllm(body) | {"model": "cheaper"}
    with pytest.raises(GuardError, match="answers come from model 'cheaper', not 'tiny'"):
        engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])


def test_a_server_that_changes_prompts_is_refused(engine, endpoint):
    endpoint.answer = lambda body: like_vllm(body) | {"usage": {"prompt_tokens": 4}}
    with pytest.raises(GuardError, match="a prompt of 3 token ids counted 4 there"):
        engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])


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


def test_a_server_as_sglang_names_tokens_by_their_texts(tmp_path):
    make_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    safe, unsafe, controversial, end = (
        tokenizer.encode(text, add_special_tokens=False)[0]
        for text in (" Safe", " Unsafe", " Controversial", "<|im_end|>")
    )
    with Endpoint(like_sglang) as server:
        engine = HTTPEngine("tiny", server.url, tokenizer=str(tmp_path))
        (row,) = engine.next_token_logprobs(prompts([7]), [unsafe, safe, controversial])
        assert row[:2] == pytest.approx([-1.9, -0.2]) and row[2] < -4  # below what the server lists
        (written,) = engine.generate(prompts([7]), 5, [end])
        assert tokenizer.decode(written) == " Violent"
        assert all("prompt" in body and isinstance(body["prompt"][0], list) for body in server.requests)
        engine.close()


def test_verdicts_without_log_probabilities_and_from_old_servers():
    names = {" Safe": 0, " Unsafe": 1, "token_id:5": 0, "token_id:6": 1}
    assert read_logprobs({"text": " Unsafe"}, names, 2) == [-np.inf, 0.0]
    assert read_logprobs({"text": "Safe\n", "logprobs": None}, names, 2) == [0.0, -np.inf]
    assert np.isnan(read_logprobs({"text": "banana"}, names, 2)).all()
    top = {"logprobs": {"top_logprobs": [{" Safe": -0.1, " a": -3.0, "b": -9.0}]}, "text": "x"}
    assert read_logprobs(top, names, 2) == pytest.approx([-0.1, -9.0], abs=0.01)  # beyond the list: less than its last


def listed(**probabilities: float) -> dict:
    top = {f" {name}": math.log(p) for name, p in probabilities.items()}
    return {"logprobs": {"top_logprobs": [top]}, "text": "x"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (listed(Unsafe=0.9), [0.1, 0.9]),  # never more than is left
        (listed(Unsafe=0.4), [0.4, 0.4]),  # nor as much as what is listed
        (listed(Unsafe=1.0), [0.0, 1.0]),
        (listed(Unsafe=0.6, other=0.3), [0.1, 0.6]),
        (listed(The=0.95), [0.0, 0.0]),
        (listed(The=0.4), [0.0, 0.0]),  # both may be 0.4, and neither is a verdict
    ],
)
def test_a_short_list_makes_no_verdict(answer, expected):
    found = np.exp(read_logprobs(answer, {" Safe": 0, " Unsafe": 1}, 2))
    assert found == pytest.approx(expected, abs=0.001) and found.sum() < 1.001
    assert found[0] < found[1] or found.sum() == 0


def test_probabilities_above_one_are_garbage():
    with pytest.raises(ValueError, match="come to "):
        read_logprobs(listed(Safe=0.8, Unsafe=0.8), {" Safe": 0, " Unsafe": 1}, 2)
