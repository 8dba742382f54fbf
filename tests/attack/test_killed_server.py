"""A server that is killed in the middle of an answer starts again at the same port, with the same log."""

import json
import re

from tests.attack.guarantee import shown
from tests.attack.request_table import CHAT, KNIFE
from tests.helpers.served import Served, say


def test_a_killed_server_starts_again(tiny_reflector, tmp_path):
    log = tmp_path / "audit.jsonl"
    flags = ["--on-unsafe", "retract", "--served-name", "tiny", "--audit-log", str(log)]
    with Served(tiny_reflector, *flags) as server:
        asked = {"model": "tiny", "messages": say("river"), "stream": True}
        server.wait().client.chat.completions.create(**asked, n=8)  # of which nothing is read
        port = re.search(r":(\d+)/", server.url)[1]
        server.process.kill()
        server.process.wait()
    before = log.read_text()
    log.write_text(before + '{"time": "2026-')  # what a crash of the whole machine can leave
    with Served(tiny_reflector, *flags, "--port", port) as server:
        assert server.wait().url == f"http://127.0.0.1:{port}/v1"
        assert shown(server.post({"model": "tiny", **KNIFE}, CHAT)) == ["we saw the morning."]
        half, *lines = log.read_text().removeprefix(before).splitlines()
    assert half == '{"time": "2026-' and [json.loads(line)["stop_reason"] for line in lines] == ["unsafe"]
