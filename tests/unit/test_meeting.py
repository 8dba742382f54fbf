"""Nodes of one run that meet over a store, in threads."""

import threading
from collections.abc import Callable

import pytest
from torch.distributed import HashStore

from megatron_srp.errors import UsageError
from megatron_srp.training.process.meeting import Meeting


def meet(counts: dict[int, int], seconds: float = 60.0) -> dict[int, str]:
    """What each node, with its own number of nodes, says at the end."""
    store, said = HashStore(), {}

    def take_part(node: int) -> Callable[[], None]:
        def run() -> None:
            try:
                if node == 0:  # its patience begins when those that come are there
                    store.wait([f"srp/nodes/{other}" for other in counts if other])
                Meeting().meet(store, node, counts[node], seconds)
                said[node] = ""
            except UsageError as error:
                said[node] = str(error)

        return run

    threads = [threading.Thread(target=take_part(node)) for node in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_nodes_that_agree() -> None:
    assert meet({2: 3, 1: 3, 0: 3}) == {0: "", 1: "", 2: ""}


@pytest.mark.parametrize("counts", [{0: 2, 1: 3}, {0: 3, 1: 2}])
def test_nodes_that_do_not(counts: dict[int, int]) -> None:
    said = meet(counts)
    assert said[0] == said[1]
    assert said[0].startswith("node 1 (") and f"has --nnodes {counts[1]}, and node 0 (" in said[0]


def test_the_nodes_that_agree_know_it_too() -> None:
    said = meet({0: 4, 1: 4, 2: 3})
    assert len(set(said.values())) == 1 and "node 2 (" in said[1]


def test_a_node_that_does_not_come() -> None:
    said = meet({0: 3, 1: 3}, seconds=1.0)
    assert said[0] == said[1]
    assert said[0].startswith("node 2 of 3 did not come within 1 s; start the same command on every node")


def test_what_is_waited_for() -> None:
    meeting = Meeting()
    assert meeting.describe().startswith("waiting for the other nodes: ")
    meeting.missing = [3]
    assert meeting.describe().startswith("waiting for node 3: ")
    meeting.missing = [*range(1, 20)]
    assert meeting.describe().startswith("waiting for nodes 1, 2, 3, 4, 5, 6, 7, 8 ...: ")
