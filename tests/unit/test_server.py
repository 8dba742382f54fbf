"""Parts of the server by themselves: policies, stop texts, a worker whose engine fails, and mistakes in flags."""

import inspect
import itertools
import json
import socket
import threading
import time
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.cli.serve import parse_arguments
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.generation.engines.base import GuardedEngine, Session
from megatron_srp.generation.engines.limits import Limits
from megatron_srp.generation.engines.request import Options, Request, Sampling
from megatron_srp.generation.guard.policy import Generation, GuardPolicy
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.generation.server.api import ABOUT_THE_REQUEST, ChatRequest, GuardOptions, TextRequest, parse
from megatron_srp.generation.server.client_policy import PolicyTooWeak, policy_of
from megatron_srp.generation.server.errors import APIError
from megatron_srp.generation.server.process import listen
from megatron_srp.generation.server.reader import StopTexts
from megatron_srp.generation.server.worker import Busy, Cancelled, Closing, Job, Worker
from megatron_srp.reflection import ReflectionFormat

POLICIES = st.builds(
    GuardOptions,
    on_unsafe=st.sampled_from([None, "off", "stop", "refuse", "retract"]),
    stop_at=st.sampled_from([None, ["Unsafe"], ["Controversial", "Unsafe"]]),
    reflect_every=st.sampled_from([None, 0, 8, 64]),
    reflect_prompt=st.sampled_from([None, False, True]),
    unsafe_threshold=st.sampled_from([None, 0.1, 0.5, 0.9]),
)


@settings(max_examples=500, deadline=None)
@given(POLICIES, POLICIES)
def test_no_request_is_weaker_than_the_operator(operator, asked):
    own = policy_of(GuardPolicy(), operator, allow_weaker=True)
    wished = policy_of(own, asked, allow_weaker=True)
    if wished.is_as_strict_as(own):
        assert policy_of(own, asked, allow_weaker=False) == wished
    else:
        with pytest.raises(PolicyTooWeak):
            policy_of(own, asked, allow_weaker=False)
    assert policy_of(own, GuardOptions(), allow_weaker=False) == own


@pytest.mark.parametrize(
    ("text", "half"),
    [
        (r"a \ud800 b", r"\ud800"),
        (r"\uDC00", r"\uDC00"),
        (r"at the end \ud83d", r"\ud83d"),
        (r"\ud83d\ude00 and \ud83d\ud83d", r"\ud83d"),
        (r"no escape: \\ud800, an escape: \\\ud801", r"\ud801"),
    ],
)
def test_half_of_a_surrogate_pair_is_named(text, half):
    body = f'{{"model": "m", "messages": [{{"role": "user", "content": "{text}"}}]}}'
    with pytest.raises(InputError) as caught:
        parse(ChatRequest, body.encode())
    place = body.rindex(half)
    while body[place - 6 : place] == half:  # the first of two
        place -= 6
    assert f"{half} at byte {place} is half of a surrogate pair" in str(caught.value)


@settings(max_examples=500, deadline=None)
@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_texts_cut_wherever_the_text_is_split(text, stops, data):
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text))))})
    stop = StopTexts(stops)
    shown = "".join(stop.feed(text[a:b]) for a, b in itertools.pairwise(cuts)) + stop.feed("", ended=True)
    if stop.found:
        # The first that was complete; one that began earlier cannot have been shown.
        assert any(text.startswith(shown + found) for found in stops)
        assert not any(found in shown for found in stops)
    else:
        assert shown == text and not any(found in text for found in stops)


class Scripted(GuardedEngine):
    """Writes `x` for ever, and fails where it is told to."""

    def __init__(self) -> None:
        self.vocabulary = GuardVocabulary([b"x"], frozenset(), {}, ReflectionFormat())
        self.fail_add = self.fail_step = self.dead = False
        self.sessions = 0

    def session(self) -> Session:
        self.sessions += 1
        engine = self

        class Scribe(Session):
            def __init__(self) -> None:
                self.answers = []

            def add(self, answers):
                if answers and engine.fail_add:
                    engine.fail_add = False
                    raise MemoryError("no room for that prompt")
                self.answers = [*self.answers, *answers]

            def close(self):
                if engine.dead:
                    raise RuntimeError("dead")

            def step(self):
                if engine.fail_step or engine.dead:
                    engine.fail_step = False
                    raise RuntimeError("broken")
                time.sleep(0.001)
                for answer in self.answers:
                    answer.push(0)
                    if answer.stopping:
                        answer.finish()
                self.answers = [answer for answer in self.answers if not answer.ended]

        return Scribe()


def until(holds) -> None:
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def job(ends: list, texts: list | None = None, seconds: float = 600.0) -> Job:
    on_text = (lambda text: None) if texts is None else texts.append
    return Job(Request([0]), on_text, ends.append, time.monotonic() + seconds)


def test_a_failing_engine_costs_only_the_answers_it_was_at(caplog):
    engine, first, second, third = Scripted(), [], [], []
    worker = Worker(engine, Limits(2), 2)
    worker.start()
    going, texts = job(first), []
    worker.submit([going])
    until(lambda: worker.counts()["running"] == 1)
    engine.fail_add = True
    worker.submit([job(second)])
    until(lambda: second)
    assert isinstance(second[0], MemoryError) and not first  # the other one goes on
    engine.fail_step = True
    until(lambda: first and engine.sessions == 2)
    assert isinstance(first[0], RuntimeError)
    worker.submit([job(third, texts)])  # and the next is answered
    until(lambda: len(texts) > 3)
    assert len(caplog.records) == 2
    worker.drain(0.05)
    with pytest.raises(Closing):
        worker.submit([job([])])
    until(lambda: third)
    assert isinstance(third[0], Generation) and third[0].stop_reason == "length"
    worker.join(60)
    assert not worker._thread.is_alive()


def test_a_dead_engine_leaves_nobody_waiting(caplog):
    """As vLLM's: once it has failed, nothing can be asked of it, not even to let go of its requests."""
    engine, ends = Scripted(), []
    worker = Worker(engine, Limits(1), 2)
    worker.start()
    worker.submit([job(ends), job(ends)])  # one waits
    until(lambda: worker.counts() == {"running": 1, "waiting": 1})
    engine.dead = True
    until(lambda: len(ends) == 2)
    assert [type(end) for end in ends] == [RuntimeError, RuntimeError]
    assert worker.closing  # which /health tells
    with pytest.raises(Closing):
        worker.submit([job(ends)])
    worker.join(60)
    assert not worker._thread.is_alive()


def test_the_queue_is_bounded_and_takes_all_of_a_request_or_nothing():
    worker, ends = Worker(Scripted(), Limits(2), 1), []
    worker.submit([job(ends), job(ends)])  # not started: all of them wait
    with pytest.raises(Busy, match="the queue is full") as error:
        worker.submit([job(ends), job(ends)])
    assert 1 <= error.value.retry_after <= 60
    last = job(ends)
    worker.submit([last])
    worker.cancel([last])
    assert isinstance(ends.pop(), Cancelled)
    assert worker.counts() == {"running": 0, "waiting": 2}
    worker.drain(0)
    worker.start()
    worker.join(60)
    assert [type(end) for end in ends] == [Busy, Busy]


@pytest.mark.parametrize(
    ("kind", "resource", "least"),
    [
        (ChatRequest, "chat.completions", {"messages": [{"role": "user", "content": "hello"}]}),
        (TextRequest, "completions", {"prompt": "hello"}),
    ],
)
def test_no_parameter_of_the_official_client_is_passed_over(kind, resource, least):
    openai = pytest.importorskip("openai")
    create = attrgetter(resource)(openai.OpenAI(api_key="none")).create
    names = set(inspect.signature(create).parameters) - {"extra_headers", "extra_query", "extra_body", "timeout"}
    honoured = set(kind.__struct_fields__) & names
    assert {"model", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "stream", "stream_options"} <= honoured
    for name in names - honoured:
        body = {"model": "m", **least, name: {"what": "changes an answer"}}
        if name in ABOUT_THE_REQUEST:
            parse(kind, json.dumps(body).encode())
        else:
            with pytest.raises(InputError, match=f"^{name}: not supported by this server; leave it out$") as refused:
                parse(kind, json.dumps(body).encode())
            assert APIError.of(refused.value).body()["error"]["param"] == name
        parse(kind, json.dumps(body | {name: None}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "logprobs": False, "top_logprobs": 0},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False, "response_format": {"type": "text"}},
        {"modalities": ["text"], "user": "me", "metadata": {"a": "b"}, "store": True, "max_completion_tokens": 3},
        {"max_tokens": 3, "max_completion_tokens": 3, "stream_options": {"include_obfuscation": False}},
    ],
)
def test_values_that_change_nothing_are_taken(fields):
    answer = {"role": "assistant", "content": "a", "refusal": None, "annotations": [], "tool_calls": None}
    body = {"model": "m", "messages": [answer, {"role": "user", "content": "b"}], **fields}
    asked = parse(ChatRequest, json.dumps(body).encode())
    assert [message.content for message in asked.messages] == ["a", "b"]
    assert asked.most_tokens == fields.get("max_completion_tokens")


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"tool_calls": [{"id": "1"}]}, r"messages\[0\]\.tool_calls: not supported"),
        ({"function_call": {"name": "f"}}, r"messages\[0\]\.function_call: not supported"),
        ({"audio": {"id": "1"}}, r"messages\[0\]\.audio: not supported"),
        ({"content": [{"type": "image_url"}]}, r"cannot be read: .*messages\[0\]"),
        ({"role": "function"}, r"cannot be read: .*messages\[0\]\.role"),
    ],
)
def test_turns_that_say_more_than_text(turn, said):
    body = {"model": "m", "messages": [{"role": "assistant", "content": "a"} | turn]}
    with pytest.raises(InputError, match=said):
        parse(ChatRequest, json.dumps(body).encode())


MODEL = ["--model", "m"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "70000"], "--port 70000"),
        (["--batch-size", "0"], "--batch-size 0: pass a number of at least 1"),
        (["--queue", "-1"], "--queue -1: pass a number of at least 0"),
        (["--timeout", "0"], "--timeout 0.0: pass a number of seconds above 0"),
        (["--grace", "inf"], "--grace inf"),
        (["--max-body-bytes", "0"], "--max-body-bytes 0"),
    ],
)
def test_mistakes_in_flags(flags, said):
    with pytest.raises(UsageError, match=said):
        parse_arguments([*MODEL, *flags])


def test_what_is_not_there():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OutputError, match="already in use; pass another"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])
    with (
        listen("127.0.0.1", 0) as taken,  # by a server whose model is not loaded yet
        pytest.raises(OutputError, match="already in use; pass another"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(OutputError, match=r"--host no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 1)


def test_a_failed_request_leaves_the_connection_open():
    """The next request on it is answered: it is the same connection that the client uses again."""
    httpx, uvicorn = pytest.importorskip("httpx"), pytest.importorskip("uvicorn")
    from megatron_srp.generation.server.app import Endpoint
    from megatron_srp.generation.server.settings import Client, Settings

    class Broken:
        max_length = 10

        def chat(self, *_):
            raise RuntimeError("broken")

    worker = Worker(Scripted(), Limits(1), 1)
    broken: Any = Broken()
    app = Endpoint(broken, worker, Settings("tiny", Client(Options(GuardPolicy(), Sampling())))).app
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_keep_alive=600))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    kept = httpx.Limits(keepalive_expiry=None)
    with httpx.Client(base_url=url, trust_env=False, timeout=600, limits=kept) as client:
        ports = set()
        for _ in range(3):
            found = client.post("/v1/chat/completions", json=body)
            assert (found.status_code, found.json()["error"]["type"]) == (500, "server_error")
            ports.add(found.extensions["network_stream"].get_extra_info("client_addr"))
    server.should_exit = True
    thread.join(60)
    assert len(ports) == 1
