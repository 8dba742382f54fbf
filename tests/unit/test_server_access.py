"""Keys, and what each is allowed."""

import socket

import pytest
from starlette.requests import Request as HTTPRequest

from megatron_srp.cli.serve import KEY_VARIABLE, example_request
from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.server.access import Access
from megatron_srp.generation.server.errors import APIError
from megatron_srp.generation.server.settings import Client, Settings

CLIENT = Client(Options(GuardPolicy(), Sampling()))


def asking(authorization: str | None) -> HTTPRequest:
    headers = [(b"authorization", authorization.encode())] if authorization is not None else []
    return HTTPRequest({"type": "http", "method": "GET", "path": "/", "headers": headers})


@pytest.mark.parametrize("given", ["Bearer ключ-1", "bearer ключ-1", "BEARER   ключ-1"])
def test_a_key_of_any_characters_in_any_spelling_of_bearer(given):
    assert Access({"ключ-1": CLIENT}, CLIENT).client(asking(given)) is CLIENT


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "ключ-1", "Basic ключ-1", "Bearer ключ-2", "Bearer é"]
)
def test_anything_else(given):
    with pytest.raises(APIError) as error:
        Access({"ключ-1": CLIENT}, CLIENT).client(asking(given))
    assert error.value.status == 401 and error.value.headers == {"WWW-Authenticate": "Bearer"}
    assert Access({}, CLIENT).client(asking(given)) is CLIENT


def test_the_example_request_names_the_key_that_it_needs(monkeypatch):
    settings = Settings("toy", CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        assert "Authorization" not in example_request(listener, settings, keyed=False)
        assert "-H 'Authorization: Bearer KEY' " in example_request(listener, settings, keyed=True)
        monkeypatch.setenv(KEY_VARIABLE, "sk-1")
        assert "-H 'Authorization: Bearer '$SRP_API_KEY " in example_request(listener, settings, keyed=True)
