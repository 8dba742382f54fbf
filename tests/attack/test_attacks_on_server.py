"""A server keeps the guarantee whatever clients ask for, and however they leave."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_srp.generation.server.openapi import openapi
from tests.attack.conftest import POLICIES, Attacked
from tests.attack.fields import requests
from tests.attack.guarantee import UNSAFE, check, shown
from tests.attack.request_table import CHAT, KNIFE, MODERATE, REQUESTS, TEXT, TOKENIZE
from tests.helpers.served import until


@pytest.mark.parametrize("policy", POLICIES)
def test_no_request_gets_more_than_the_policy_shows(attacked, policy):
    def send(attack: tuple[str, str, dict]) -> str:
        name, path, fields = attack
        try:
            check(policy, path, attacked.post(policy, {"model": "tiny"} | fields, path), json.dumps(fields))
        except AssertionError as error:
            return f"{name}: {error}"
        return ""

    streams = [(f"{name}, stream", path, fields | {"stream": True}) for name, path, fields in REQUESTS]
    with ThreadPoolExecutor(8) as pool:
        failed = list(filter(None, pool.map(send, REQUESTS + [one for one in streams if one[1] in (CHAT, TEXT)])))
    assert not failed, "\n".join(failed)
    (text,) = shown(attacked.post(policy, {"model": "tiny", **KNIFE}, CHAT))
    assert text.startswith("we saw the morning.") and ("kill" in text) == (policy != "retract")
    for seen in (attacked.log.read_text(), attacked.metrics()):  # neither of which is to have any text
        assert not any(word in seen for word in (*UNSAFE, "morning", "knife"))


def test_answers_together_show_what_they_show_alone(attacked):
    """`n` answers share a prompt that is read once, and a neighbour's draws, limits and ends are not theirs."""
    drawn = KNIFE | {"model": "tiny", "temperature": 0.7}
    together = shown(attacked.post("retract", drawn | {"seed": 40, "n": 4}, CHAT))
    alone = [shown(attacked.post("retract", drawn | {"seed": 40 + i}, CHAT))[0] for i in range(4)]
    assert together == alone and not any("kill" in text for text in together)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), path=st.sampled_from([CHAT, CHAT, TEXT, MODERATE, TOKENIZE]))
def test_fields_of_any_value(attacked, data, path):
    """Drawn texts are noise, which no verdict of the model has to find unsafe: only the form of the reply is checked."""
    body = data.draw(requests(openapi(), path))
    check("refuse", path, attacked.post("refuse", body, path), "")


def vanish(attacked: Attacked, number: int) -> None:
    """Ask, read some of the answer or nothing, and go away without a word."""
    fields = {"model": "tiny", "stream": number % 3 > 0, "n": 1 + number % 2, "temperature": 1, **KNIFE}
    body = json.dumps(fields).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-retract\r\nContent-Length: {len(body)}\r\n\r\n"
    sent = head.encode() + body
    url = attacked.served.http.base_url
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(sent if number % 5 else sent[: len(sent) // 2])
        if number % 5 == 1:
            connection.recv(1 << number % 10)


@pytest.mark.parametrize(
    "clients", [pytest.param(80, id="80"), pytest.param(5000, id="5000", marks=pytest.mark.exhaustive)]
)
def test_clients_that_vanish_leave_nothing(attacked, clients):
    process = Path(f"/proc/{attacked.served.process.pid}")

    def resident() -> int:
        return int((process / "statm").read_text().split()[1]) * 4096

    def settle() -> None:
        attacked.served.until(0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: vanish(attacked, i), range(40)))
        settle()
        files, memory = len(list((process / "fd").iterdir())), resident()
        list(pool.map(lambda i: vanish(attacked, i), range(clients)))
    settle()
    until(lambda: len(list((process / "fd").iterdir())) <= files + 2)  # it closes the last ones a few turns later
    assert resident() <= memory + (64 << 20)
    assert shown(attacked.post("retract", {"model": "tiny", **KNIFE}, CHAT)) == ["we saw the morning."]
