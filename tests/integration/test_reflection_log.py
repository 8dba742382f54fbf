"""What --srp-log-reflections counts, compared with a count token by token."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from megatron_srp.data.reflection_table import Entry, ReflectionTable
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.training.host.reflection_patterns import Patterns, find_patterns

OPEN, CLOSE, EOS, VOCABULARY = 1, 2, 0, 40
ENTRIES = [
    Entry(SAFE, False, (OPEN, 10, 11, CLOSE, 3)),
    Entry(SafetyLabel(Verdict.UNSAFE, ("Violent",)), True, (OPEN, 10, 12, 13, CLOSE, 3, EOS)),
    Entry(SafetyLabel(Verdict.UNSAFE, ("PII",)), True, (OPEN, 10, 12, 14, 15, CLOSE, 3, EOS)),
    Entry(SafetyLabel(Verdict.CONTROVERSIAL, ()), False, (OPEN, 16, CLOSE, 3)),
]


def sidecar_of(entries: list[Entry]) -> ReflectionSidecar:
    empty = np.empty(0, np.int32)
    return ReflectionSidecar(np.zeros(1, np.int64), empty, empty.astype(np.uint16), ReflectionTable(entries), False)


def test_verdicts_of_several_tokens_and_categories():
    patterns = find_patterns([sidecar_of(ENTRIES[:2]), sidecar_of(ENTRIES[2:])])
    assert patterns == Patterns(
        {"Safe": (OPEN, 10, 11), "Unsafe": (OPEN, 10, 12), "Controversial": (OPEN, 16)}, root=1, close=(CLOSE, 3)
    )


def test_a_single_verdict():
    whole = ENTRIES[0].ids
    assert find_patterns([sidecar_of(ENTRIES[:1])]) == Patterns({"Safe": whole}, root=len(whole), close=whole)


@pytest.fixture
def log(monkeypatch):
    """A log on a single rank."""
    from megatron_srp.training.trainer import reflection_log

    alone = SimpleNamespace(
        get_tensor_model_parallel_rank=lambda: 0,
        get_tensor_model_parallel_group=lambda: None,
        get_data_parallel_group=lambda with_context_parallel: None,
    )
    monkeypatch.setattr(reflection_log, "mpu", alone)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *args, **kwargs: None)
    return reflection_log.ReflectionLog(find_patterns([sidecar_of(ENTRIES)]))


def tokens_to_verdict(entry: Entry) -> int:
    return 2 if entry.label.verdict is Verdict.CONTROVERSIAL else 3


def test_the_sums_of_a_step(log):
    """Two micro-batches of rows with reflections among text, one of them cut at either end."""
    rng, drawn = np.random.default_rng(0), torch.Generator().manual_seed(2)
    expected = {"text": [], "reflections": [], **{str(verdict): [] for verdict in Verdict}}
    for _ in range(2):
        rows, inside, firsts = [], [], []
        for _ in range(3):
            row, marks, own = [], [], []
            while len(row) < 400:
                text = [int(token) for token in rng.integers(20, VOCABULARY, rng.integers(30, 50))]
                entry = ENTRIES[rng.integers(len(ENTRIES))]
                own.append((len(row) + len(text), entry))
                ids = entry.ids[:-1] if entry.stop else entry.ids
                row += [*text, *entry.ids]
                marks += [False] * len(text) + [True] * len(ids) + [False] * entry.stop
            whole = [(at, entry) for at, entry in own if at + tokens_to_verdict(entry) <= 400]
            if len(whole) < len(own):  # a reflection is not recognised before its verdict
                marks[own[-1][0] :] = [False] * len(marks)
            rows.append(row[:400])
            inside.append(marks[:400])
            firsts.append(whole)
        labels, marked = torch.tensor(rows), torch.tensor(inside)
        logits = torch.randn(400, 3, VOCABULARY, generator=torch.Generator().manual_seed(1))
        logits.scatter_add_(2, labels.t()[..., None], 2.5 * torch.ones(400, 3, 1))
        losses = torch.rand(3, 400, generator=drawn)
        written = logits.argmax(-1).t() == labels
        for number, own in enumerate(firsts):
            for at, entry in own:
                verdict = written[number, at + 1 : at + tokens_to_verdict(entry)]
                expected[str(entry.label.verdict)].append(bool(verdict.all()))
        assert torch.equal(log.inside(labels), marked)
        log.add(labels, losses, log.count_verdicts(labels, logits))
        expected["text"] += losses[~marked].tolist()
        expected["reflections"] += losses[marked].tolist()
    assert 0 < sum(expected["Unsafe"]) < len(expected["Unsafe"])
    values = log.take()
    assert values.pop("loss on text") == pytest.approx(np.mean(expected["text"]))
    assert values.pop("loss on reflections") == pytest.approx(np.mean(expected["reflections"]))
    assert values == {f"right verdicts: {name}": pytest.approx(np.mean(expected[name])) for name in map(str, Verdict)}
    assert log.take() == {}
