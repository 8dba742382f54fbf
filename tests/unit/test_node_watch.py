"""Which node of a finished run may leave: node 0 takes the store with it."""

from torch.distributed import HashStore

from megatron_srp.training.process.nodes import NodeWatch


def test_node_0_stays_until_the_others_know_that_all_have_left() -> None:
    store = HashStore()
    first, second = (NodeWatch(store, node, nodes=2) for node in range(2))
    for watch in (second, first):
        watch._leaving.set()
        watch._exchange(1)
    assert not first._done.is_set()
    second._exchange(2)
    first._exchange(2)
    assert second._done.is_set() and first._done.is_set()
    assert first.ending() is None and second.ending() is None
