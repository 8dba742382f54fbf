"""Names that resolve to loopback, as /etc/hosts of Debian and of clouds has them."""

import socket
from dataclasses import replace
from typing import Any

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.training.checks import addresses
from megatron_srp.training.checks.addresses import check_addresses
from megatron_srp.training.flags.rank_flags import Ranks

HOSTS = {"node0": "10.0.0.7", "debian": "127.0.1.1", "10.0.0.7": "10.0.0.7", "127.0.0.1": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        if host not in HOSTS:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOSTS[host], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "ib0")])
    monkeypatch.setattr(addresses, "has_route", lambda address: True)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)


def two_nodes(master: str) -> Ranks:
    return Ranks(8, nodes=2, node_rank=1, master_addr=master)


@pytest.mark.parametrize(
    ("master", "own", "line"),
    [
        ("nowhere", "node0", "--master-addr nowhere: no such host here"),
        (
            "debian",
            "debian",
            r"--master-addr debian is 127.0.1.1 here \(see /etc/hosts\), which other nodes cannot reach",
        ),
        ("node0", "debian", r"the host name debian is 127.0.1.1 here .* set GLOO_SOCKET_IFNAME, and .* of eth0, ib0$"),
        ("10.0.0.7", "unknown", "the host name unknown has no address here.* set GLOO_SOCKET_IFNAME"),
    ],
)
def test_a_name_that_others_cannot_use(master: str, own: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: own)
    with pytest.raises(UsageError, match=line):
        check_addresses(two_nodes(master))


@pytest.mark.parametrize(("master", "own"), [("node0", "node0"), ("10.0.0.7", "node0"), ("127.0.0.1", "debian")])
def test_names_that_serve(master: str, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: own)
    check_addresses(two_nodes(master))
    check_addresses(Ranks(8))


def test_the_interface_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "debian")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    check_addresses(two_nodes("node0"))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib1")
    with pytest.raises(UsageError, match="GLOO_SOCKET_IFNAME=ib1: this host has lo, eth0, ib0"):
        check_addresses(two_nodes("node0"))


def test_an_address_of_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node0")
    monkeypatch.setattr(addresses, "leads_here", lambda address: False)
    check_addresses(two_nodes("node0"))  # node 1 cannot know
    with pytest.raises(
        UsageError, match=r"--master-addr node0: 10\.0\.0\.7 does not lead to this host, which is node 0"
    ):
        check_addresses(replace(two_nodes("node0"), node_rank=0))
    monkeypatch.setattr(addresses, "has_route", lambda address: False)
    with pytest.raises(UsageError, match="this host has no route to 10"):
        check_addresses(two_nodes("node0"))
