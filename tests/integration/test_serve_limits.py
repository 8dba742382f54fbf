"""The limits of `srp serve`: keys, a full queue, clients that go away, time, and its own end."""

import contextlib
import json
import os
import resource
import signal
import socket
import time
from types import SimpleNamespace

import pytest

from tests.helpers.endless import make_endless
from tests.helpers.served import KEY, Served, openai, say, until


@pytest.fixture(scope="module")
def server(tiny_reflector, tmp_path_factory):
    """One that is never done, and whose noise no guard stops."""
    model = make_endless(tmp_path_factory.mktemp("endless"), tiny_reflector)
    flags = ["--batch-size", "1", "--queue", "1", "--timeout", "3600", "--grace", "1.5", "--max-new-tokens", "90000"]
    flags += ["--on-unsafe", "off"]
    with Served(model, *flags, key=KEY) as server:
        yield server.wait()


@pytest.fixture
def endless(server) -> Served:
    server.until(0)
    return server


def endless_stream(endless: Served):
    return endless.client.chat.completions.create(model=endless.ready.split()[1], messages=say("x"), stream=True)


def test_a_key_is_wanted(endless):
    assert endless.http.get("/health").status_code == 200
    for given in (None, "Bearer no", f"Bearer {KEY[:-1]}", KEY, f"Basic {KEY}", "Bearer é"):
        headers = {"Authorization": given.encode()} if given else {}
        for found in (endless.http.get("/v1/models", headers=headers), endless.post(b"{}", **headers)):
            assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")
            assert found.headers["www-authenticate"] == "Bearer"
    assert endless.http.get("/v1/models", headers={"Authorization": f"bEARER  {KEY}".encode()}).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=endless.url, api_key="no", max_retries=0).models.list()


def test_a_full_queue_and_clients_that_go_away(endless):
    first = endless_stream(endless)
    next(iter(first))
    endless.until(1)
    second = endless_stream(endless)  # waits
    endless.until(1, 1)
    with pytest.raises(openai.RateLimitError) as error:
        endless_stream(endless)
    assert error.value.code == "queue_full" and 1 <= int(error.value.response.headers["retry-after"]) <= 60
    second.close()  # in the queue: makes room at once
    endless.until(1)
    third = endless_stream(endless)
    endless.until(1, 1)
    first.close()  # in the middle of an answer: the one that waits takes its place
    endless.until(1)
    assert sum(bool(piece.choices[0].delta.content) for piece, _ in zip(third, range(5), strict=False)) >= 3
    third.close()
    endless.until(0)


def test_a_plain_request_that_is_given_up_ends(endless):
    name = endless.ready.split()[1]
    body = json.dumps({"model": name, "messages": say("x")}).encode()
    with socket.create_connection(("127.0.0.1", int(endless.url.split(":")[2].partition("/")[0]))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        endless.until(1)
    endless.until(0)


@pytest.mark.parametrize("on_unsafe", ["off", "stop", "retract"])
def test_a_time_limit_ends_an_answer(tmp_path, tiny_reflector, monkeypatch, on_unsafe):
    """What there is of it is an answer, which has been judged, or says what was not; a request that waited in vain is
    asked to come again. The clock is the test's."""
    from megatron_srp.generation.engines.hf.model import GuardedModel
    from megatron_srp.generation.engines.limits import Limits
    from megatron_srp.generation.engines.request import Options, Sampling
    from megatron_srp.generation.guard.policy import Generation, GuardPolicy
    from megatron_srp.generation.server import worker as module
    from megatron_srp.reflection import ReflectionFormat

    model = GuardedModel(str(make_endless(tmp_path, tiny_reflector)), ReflectionFormat(), "cpu")
    # At a threshold of 1 the model's noise passes.
    request = model.complete("x", Options(GuardPolicy(on_unsafe, unsafe_threshold=1.0), Sampling(), 90_000))
    worker, texts, ends, now = module.Worker(model.generator, Limits(1), 1), [], [], [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for deadline in (2.5, 0.3):
        worker.submit([module.Job(request, texts.append, ends.append, deadline)])
    worker.start()
    until(lambda: any(answer.guard.num_tokens > 10 for _, answer in worker._running))
    now[0] = 0.4
    until(lambda: len(ends) == 1)
    now[0] = 3.0
    until(lambda: len(ends) == 2)
    late, cut = ends
    assert isinstance(late, module.Busy) and "waited too long" in str(late)
    assert isinstance(cut, Generation) and cut.stop_reason == "length" and cut.num_tokens > 10
    judged = [forced.num_tokens for forced in cut.forced]
    assert (judged, cut.unjudged_tokens) == (([], cut.num_tokens) if on_unsafe == "off" else ([cut.num_tokens], 0))
    assert cut.withheld_tokens == (cut.num_tokens if on_unsafe == "retract" else 0)
    assert bool(texts) == (on_unsafe != "retract")
    worker.drain(0)
    worker.join(60)
    assert not worker._thread.is_alive()


def test_a_burst_of_connections_takes_no_file_that_is_not_there(tiny_reflector, capfd):
    """All come while the server is busy, and it closes those above its limit only some turns after it has accepted them."""
    with Served(tiny_reflector, "--max-connections", "64") as served:
        pid, address = served.wait().process.pid, ("127.0.0.1", served.http.base_url.port)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (256, 256))
        os.kill(pid, signal.SIGSTOP)
        burst = [socket.create_connection(address, timeout=60) for _ in range(500)]
        os.kill(pid, signal.SIGCONT)
        for one in burst[64:]:
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
        for one in burst:
            one.close()
        until(lambda: served.http.get("/health").status_code == 200)
    assert "Too many open files" not in capfd.readouterr().err


def test_sigterm_ends_answers_whole_and_takes_no_more(endless):
    """The last test here: the server is gone behind it."""
    stream = endless_stream(endless)
    next(iter(stream))
    began = time.monotonic()
    endless.process.send_signal(signal.SIGTERM)
    *_, last = stream  # to its end: no error, no cut
    assert last.choices[0].finish_reason == "length"
    assert time.monotonic() - began > 1  # the time that --grace gives it
    assert endless.process.wait(60) == 0
    with pytest.raises(openai.APIConnectionError):
        endless.client.models.list()
