"""Keys, and what each is allowed."""

import pytest
from starlette.requests import Request as HTTPRequest

from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.server.access import Access
from megatron_srp.generation.server.errors import APIError
from megatron_srp.generation.server.settings import Client

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
