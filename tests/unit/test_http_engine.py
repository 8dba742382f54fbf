"""What the HTTP engine reads from the answers of servers; `tests/integration/test_serving.py` has a real model behind one."""

import math

import numpy as np
import pytest
from transformers import AutoTokenizer

from megatron_srp.annotation.engines.http_answers import read_logprobs
from megatron_srp.annotation.engines.http_engine import HTTPEngine
from megatron_srp.annotation.guards.verdict_tokens import verdict_logprobs
from megatron_srp.errors import GuardError
from megatron_srp.verdict_tree import VerdictTree
from tests.helpers.endpoint import Endpoint
from tests.helpers.guard_endpoint import KEY, SAFE, UNSAFE, like_vllm, prompts, score, vllm_endpoint
from tests.helpers.tiny_guard import make_tokenizer

UN, SURE = 14, 15


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
def key(monkeypatch):
    monkeypatch.setenv("SRP_API_KEY", KEY)


@pytest.fixture
def endpoint():
    with vllm_endpoint() as server:
        yield server


@pytest.fixture
def engine(endpoint):
    engine = HTTPEngine("tiny", endpoint.url, prompts_per_request=2)
    yield engine
    engine.close()


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


def test_another_model_behind_the_endpoint_is_refused(engine, endpoint):
    endpoint.answer = lambda body: like_vllm(body) | {"model": "cheaper"}
    with pytest.raises(GuardError, match="answers come from model 'cheaper', not 'tiny'"):
        engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])


def test_a_server_that_changes_prompts_is_refused(engine, endpoint):
    endpoint.answer = lambda body: like_vllm(body) | {"usage": {"prompt_tokens": 4}}
    with pytest.raises(GuardError, match="a prompt of 3 token ids counted 4 there"):
        engine.next_token_logprobs(prompts([3]), [SAFE, UNSAFE])


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
