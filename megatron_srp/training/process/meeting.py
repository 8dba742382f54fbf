"""How the launchers of a run's nodes meet: node 0 waits for the others, and all must agree on how many they are.

torchrun's own store only counts those that come. Where --nnodes differ, it waits for nodes that never will.
"""

import json
import socket
import time
from typing import Any

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from megatron_srp.errors import UsageError

SECONDS_TO_KNOW = 5.0
_EVERY_S = 0.1
_MOST_NAMED = 8


def open_store(handler: Any) -> None:
    """Give torchrun's rendezvous of a fixed number of nodes a store that does not wait for them."""
    if isinstance(handler, StaticTCPRendezvous) and handler._store is None:
        handler._store = TCPStore(
            handler.master_addr,
            handler.master_port,
            handler.world_size,
            is_master=handler.rank == 0,
            timeout=handler.timeout,
            wait_for_workers=False,
            multi_tenant=True,
        )


class Meeting:
    """One node's part in it.

    Attributes:
        missing: the nodes that it waits for; none if it does not know.
    """

    def __init__(self) -> None:
        self.missing: list[int] = []

    def describe(self) -> str:
        """What this node waits for."""
        who = _name(self.missing) if self.missing else "the other nodes"
        return f"waiting for {who}: is the same command running there, with its own --node-rank?"

    def meet(self, store: Any, node: int, nodes: int, seconds: float) -> None:
        """Wait until all nodes have come, and agree.

        Args:
            store: torch's, which they share. Node 0 is its server.
            node: this one's number.
            nodes: how many there are, as far as this one knows.
            seconds: at most.

        Raises:
            UsageError: on each node that has come, when others have not, or have another --nnodes.
        """
        store.set(f"srp/nodes/{node}", json.dumps([nodes, socket.gethostname()]))
        if node:
            wrong = _compare(store, node, nodes) or store.get("srp/met").decode()
            store.set(f"srp/knows/{node}", "")
        else:
            wrong = self._wait(store, nodes, seconds)
            store.set("srp/met", wrong)
            if wrong:
                self._stay(store, nodes)
        if wrong:
            raise UsageError(wrong)

    def _wait(self, store: Any, nodes: int, seconds: float) -> str:
        """On node 0. Returns what is wrong."""
        end = time.monotonic() + seconds
        self.missing = [*range(1, nodes)]
        while self.missing:
            came = [node for node in self.missing if store.check([f"srp/nodes/{node}"])]
            self.missing = [node for node in self.missing if node not in came]
            for node in came:
                if wrong := _compare(store, node, json.loads(store.get(f"srp/nodes/{node}"))[0]):
                    return wrong
            if self.missing and time.monotonic() > end:
                return (
                    f"{_name(self.missing)} of {nodes} did not come within {seconds:.0f} s; start the same command on "
                    "every node, each with its own --node-rank"
                )
            time.sleep(_EVERY_S)
        return ""

    def _stay(self, store: Any, nodes: int) -> None:
        """Until the others know too: without node 0's store they would report a lost connection."""
        came = set(range(1, nodes)) - set(self.missing)
        end = time.monotonic() + SECONDS_TO_KNOW
        while not all(store.check([f"srp/knows/{node}"]) for node in came) and time.monotonic() < end:
            time.sleep(_EVERY_S)


def _compare(store: Any, node: int, nodes: int) -> str:
    """What is wrong with the number of nodes that `node` has."""
    there, host = json.loads(store.get("srp/nodes/0"))
    if there == nodes:
        return ""
    own = json.loads(store.get(f"srp/nodes/{node}"))[1]
    return (
        f"node {node} ({own}) has --nnodes {nodes}, and node 0 ({host}) {there}; start the same command on all nodes, "
        "each with its own --node-rank"
    )


def _name(nodes: list[int]) -> str:
    more = " ..." if len(nodes) > _MOST_NAMED else ""
    return f"{'node' if len(nodes) == 1 else 'nodes'} {', '.join(map(str, nodes[:_MOST_NAMED]))}{more}"
