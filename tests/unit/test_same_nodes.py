"""Nodes of one run compare their software over a store."""

import platform

import pytest
from torch.distributed import HashStore

from megatron_srp.errors import UsageError
from megatron_srp.training.process import same_nodes
from megatron_srp.training.process.same_nodes import check_same, differences


def test_equal_nodes() -> None:
    store = HashStore()
    for node in range(3):
        check_same(store, node)


def test_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    check_same(store, 0)
    monkeypatch.setattr(same_nodes, "_version", lambda package: "0.0.1")
    with pytest.raises(UsageError, match=r"^node 1 \(.*\) differs from node 0: megatron-srp .* there and 0\.0\.1 here"):
        check_same(store, 1)


def test_clocks() -> None:
    facts = {"Python": platform.python_version(), "clock": 1000.0}
    assert differences(facts, facts | {"clock": 1050.0}) == []
    assert differences(facts, facts | {"clock": 700.0}) == ["its clock is 300 s apart"]
