"""Check the names and addresses by which the nodes of a run find each other, before any waits for another."""

import ipaddress
import os
import socket

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.rank_flags import Ranks

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
SECONDS_TO_COME_BACK = 5.0


def check_addresses(ranks: Ranks) -> None:
    """Check that other nodes can reach node 0's address, and the one at which this host would listen.

    A literal loopback address, such as 127.0.0.1, is taken as meant: all nodes are then on one machine.

    Raises:
        UsageError: with what to pass or to set.
    """
    if ranks.nodes == 1 or ranks.master_addr is None:
        return
    master = ranks.master_addr
    address = _resolve(master)
    if address is None:
        raise UsageError(f"--master-addr {master}: no such host here; pass node 0's address, or its full name")
    if not address.is_loopback:
        _check_way(master, str(address), is_node_0=ranks.node_rank == 0)
        _check_interface()
        _check_own_name(str(address))
    elif str(address) != master:
        raise UsageError(
            f"--master-addr {master} is {address} here (see /etc/hosts), which other nodes cannot reach; pass node "
            "0's address in their network, one of those of `hostname -I` there"
        )


def _check_way(master: str, address: str, is_node_0: bool) -> None:
    if not has_route(address):
        what = f"this host has no route to {address}"
    elif is_node_0 and not leads_here(address):
        what = f"{address} does not lead to this host, which is node 0"
    else:
        return
    raise UsageError(f"--master-addr {master}: {what}; pass one of the addresses that `hostname -I` prints on node 0")


def has_route(address: str) -> bool:
    """Whether this host knows a way to an address; nothing is sent."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        return probe.connect_ex((address, 9)) == 0


def leads_here(address: str) -> bool:
    """Whether a connection to an address ends at this host: it is one of its own, or is translated to one."""
    with socket.create_server(("", 0), family=_family(address)) as server:
        try:
            socket.create_connection((address, server.getsockname()[1]), timeout=SECONDS_TO_COME_BACK).close()
        except OSError:
            return False
    return True


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _check_interface() -> None:
    """The interfaces that the environment names; NCCL's variable may hold prefixes and exclusions."""
    missing = set(os.environ.get(_GLOO, "").split(",")) - {"", *interfaces()}
    if missing:
        raise UsageError(f"{_GLOO}={os.environ[_GLOO]}: this host has {', '.join(interfaces())}; name one of them")


def _check_own_name(master: str) -> None:
    """gloo listens at the address of the host's own name, which Debian and cloud images give as 127.0.1.1."""
    if os.environ.get(_GLOO):
        return
    name = socket.gethostname()
    own = _resolve(name)
    if own is None or own.is_loopback:
        what = "has no address here" if own is None else f"is {own} here (see /etc/hosts)"
        names = ", ".join(interface for interface in interfaces() if interface != "lo")
        raise UsageError(
            f"the host name {name} {what}, and other nodes could not connect to its ranks; set {_GLOO}, and {_NCCL} "
            f"with GPUs, to the interface that has {local_address(master)}, one of {names}"
        )


def _resolve(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return None
    return ipaddress.ip_address(str(found).partition("%")[0])


def interfaces() -> list[str]:
    """The names of this host's network interfaces, the loopback too."""
    return [name for _, name in socket.if_nameindex()]


def local_address(other: str) -> str:
    """This host's address on the way to another; nothing is sent."""
    with socket.socket(_family(other), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other, 9))
        except OSError:
            return f"a route to {other}"
        return str(probe.getsockname()[0])
