"""Limits on connections and keys: what is refused, and that it is one line."""

import resource
import socket
import threading
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.server import connections, quotas
from megatron_srp.generation.server.connections import limited_protocol, require_open_files
from megatron_srp.generation.server.keys import read_keys
from megatron_srp.generation.server.process import listen
from megatron_srp.generation.server.settings import Client
from megatron_srp.generation.server.worker import Busy

FLAGS = Client(Options(GuardPolicy("stop", reflect_every=64), Sampling(), 256))
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SILENT_S = 2.0


@pytest.fixture
def port():
    """Of a server that takes two connections, each silent for SILENT_S at most before its first request."""
    uvicorn = pytest.importorskip("uvicorn")
    config = uvicorn.Config(
        Starlette(), log_level="critical", lifespan="off", http=limited_protocol(2, SILENT_S), timeout_keep_alive=60
    )
    server, listener = uvicorn.Server(config), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(60)


def connect(port: int, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(said)
    return connection


def closed(connection: socket.socket) -> bool:
    """Whether the other end closes it, sooner or later."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def not_found(connection: socket.socket) -> bool:
    """Whether one answer comes, of status 404; reads all of it, however many pieces it comes in."""
    read = b""
    while not read.endswith(b"\r\n\r\nNot Found"):
        piece = connection.recv(1)
        if not piece:
            return False
        read += piece
    return read.startswith(b"HTTP/1.1 404")


def test_silent_connections_are_closed(port):
    """Half-sent headers held a connection for ever, 1,000 of them all descriptors."""
    silent = [connect(port), connect(port, b"GET / HTTP/1.1\r\nHost: x\r\n")]
    assert all(closed(one) for one in silent)
    answered = connect(port, REQUEST)
    assert not_found(answered)
    threading.Event().wait(1.5 * SILENT_S)
    answered.sendall(REQUEST)
    assert not_found(answered)


def test_more_connections_are_closed_at_once(port):
    held = [connect(port, REQUEST) for _ in range(2)]
    assert all(not_found(one) for one in held)
    assert closed(connect(port))
    held[0].close()


def test_open_files(monkeypatch):
    limits = [(200, 500)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    require_open_files(8)
    assert len(limits) == 1
    require_open_files(200)
    assert limits[-1] == (392, 500)
    with pytest.raises(UsageError, match=r"--max-connections 512 needs 704 open files, and the limit is 500;.* 308"):
        require_open_files(512)
    assert connections.resource is resource


def test_keys_with_limits_of_their_own(tmp_path):
    path = tmp_path / "keys.yaml"
    path.write_text(
        "- {name: a, key: sk-aaaaaaa, policy: {on_unsafe: retract, stop_at: [Unsafe]}, max_answers: 4}\n"
        "- {name: b, key: sk-bbbbbbb, completions: true, max_new_tokens: 16, requests_per_minute: 60}\n"
    )
    found = read_keys(path, FLAGS)
    a, b = found["sk-aaaaaaa"], found["sk-bbbbbbb"]
    assert (a.options.policy.on_unsafe, a.options.policy.reflect_every, a.max_answers) == ("retract", 64, 4)
    assert (b.options.policy, b.options.max_new_tokens, b.completions) == (FLAGS.options.policy, 16, True)
    assert (a.completions, a.options.max_new_tokens, b.name) == (False, 256, "b")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- {name: a, key: sk-secret", r"keys.yaml:\d: not YAML"),
        ("\x00", "not YAML in UTF-8"),
        ("{}", "Expected `array`"),
        ("[]", "at least one entry"),
        ("- {name: a, key: sk-secret, limit: 5}", "unknown field `limit`"),
        ("- {name: a, key: sk-secret, policy: {on_unsafe: no}}", "on_unsafe"),
        ("- {name: a, key: short}", "key"),
        ("- {name: a, key: sk-secret}\n- {name: b, key: sk-secret}", "no key or name twice"),
    ],
)
def test_mistakes_in_the_file_of_keys(content, said, tmp_path):
    (tmp_path / "keys.yaml").write_text(content)
    with pytest.raises(InputError, match=said) as error:
        read_keys(tmp_path / "keys.yaml", FLAGS)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="No such file"):
        read_keys(tmp_path / "none.yaml", FLAGS)


def test_quotas(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(quotas, "time", SimpleNamespace(monotonic=lambda: now[0]))
    own = quotas.Quotas()
    few = Client(FLAGS.options, "few", max_answers=3, requests_per_minute=2)
    own.take(few, 2)
    with pytest.raises(Busy, match="more than 3 answers of this key"):
        own.take(few, 2)
    own.take(FLAGS, 99)  # no limit
    own.give_back(few)
    own.take(few, 2)
    own.count_request(few)
    now[0] += 30
    own.count_request(few)
    with pytest.raises(Busy, match="more than 2 requests in a minute") as error:
        own.count_request(few)
    assert error.value.retry_after == 30
    now[0] += 31
    own.count_request(few)


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ((), None, 200),
        ((), "http://127.0.0.1:8000", 403),
        (("https://a.org",), "https://a.org", 200),
        (("https://a.org",), "https://b.org", 403),
        (("*",), "https://b.org", 200),
    ],
)
def test_web_pages(allowed, origin, status):
    from megatron_srp.generation.server.app import Endpoint
    from megatron_srp.generation.server.settings import Settings

    worker = SimpleNamespace(counts=dict, closing=False)
    model = SimpleNamespace(max_length=10)
    client = TestClient(Endpoint(model, worker, Settings("m", FLAGS, origins=allowed)).app)  # type: ignore[arg-type]
    found = client.get("/v1/models", headers={"Origin": origin} if origin else {})
    assert found.status_code == status
    if allowed and origin:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert client.options("/v1/chat/completions", headers=asked).status_code == (200 if status == 200 else 400)
    assert client.get("/ready").status_code == 200
    worker.closing = True
    assert (client.get("/health").status_code, client.get("/ready").status_code) == (200, 503)
