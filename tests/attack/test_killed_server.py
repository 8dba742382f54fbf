"""A server that is killed in the middle of an answer starts again at the same port, with the same log."""

import json

from tests.attack.guarantee import shown
from tests.attack.request_table import CHAT, KNIFE
from tests.helpers.ports import free_port
from tests.helpers.served import Served, say


def test_a_killed_server_starts_again(tiny_reflector, tmp_path):
    log, port = tmp_path / "audit.jsonl", str(free_port())
    flags = ["--on-unsafe", "retract", "--served-name", "tiny", "--audit-log", str(log), "--port", port]
    with Served(tiny_reflector, *flags) as server:
        asked = {"model": "tiny", "messages": say("river"), "stream": True}
        server.wait().client.chat.completions.create(**asked, n=8)  # of which nothing is read
        server.process.kill()
        server.process.wait()
    before = log.read_text()
    log.write_text(before + '{"time": "2026-')  # what a crash of the whole machine can leave
    with Served(tiny_reflector, *flags) as server:
        assert server.wait().url == f"http://127.0.0.1:{port}/v1"
        assert shown(server.post({"model": "tiny", **KNIFE}, CHAT)) == ["we saw the morning."]
        half, *lines = log.read_text().removeprefix(before).splitlines()
    assert half == '{"time": "2026-' and [json.loads(line)["stop_reason"] for line in lines] == ["unsafe"]
