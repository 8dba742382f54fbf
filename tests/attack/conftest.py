"""One server to attack, with a key for each policy."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.served import Served

POLICIES = ("retract", "refuse")


class Attacked:
    """A server under attack.

    Attributes:
        log: where it writes its audit log.
    """

    def __init__(self, served: Served, log: Path) -> None:
        self.served, self.log = served, log

    def post(self, policy: str, body: bytes | dict, path: str) -> httpx.Response:
        return self.served.post(body, path, Authorization=f"Bearer sk-{policy}")

    def metrics(self) -> str:
        return self.served.http.get("/metrics", headers={"Authorization": "Bearer sk-refuse"}).text


@pytest.fixture(scope="session")
def attacked(tiny_reflector, tmp_path_factory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("attacked")
    entry = "- {{name: {0}, key: sk-{0}, policy: {{on_unsafe: {0}, reflect_every: 12}}}}\n"
    (folder / "keys.yaml").write_text("".join(map(entry.format, POLICIES)))
    files = ["--keys", str(folder / "keys.yaml"), "--audit-log", str(folder / "audit.jsonl")]
    flags = ["--served-name", "tiny", "--completions", "--max-new-tokens", "60", "--queue", "300", "--timeout", "3600"]
    with Served(tiny_reflector, *flags, *files, key="sk-refuse-by-flags") as served:
        yield Attacked(served.wait(), folder / "audit.jsonl")
