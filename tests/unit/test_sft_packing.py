"""Conversations in sequences: each once an epoch, none cut, and the same from wherever a run goes on."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.errors import InputError, SrpError, UsageError
from megatron_srp.sft.packing import pack
from megatron_srp.sft.training_set import Sequences, Source, TrainingSet, parse_sources
from megatron_srp.training.flags import sft_flags as sft
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.flags.defaults import EVAL_INTERVAL
from megatron_srp.training.plan import expand_flags
from tests.helpers.sft_shards import of_lengths, write_sft_shard

LENGTHS = st.lists(st.integers(2, 65), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=300, deadline=None)
@given(sizes=st.lists(st.integers(1, 50), max_size=200), capacity=st.integers(50, 120), seed=SEEDS)
def test_each_is_packed_once_and_no_pack_is_too_full(sizes: list[int], capacity: int, seed: int) -> None:
    items, wanted = np.arange(len(sizes)) + 7, np.array(sizes, np.int64)
    packs = pack(items, wanted, capacity, np.random.RandomState(seed))
    assert sorted(packs.items.tolist()) == items.tolist()
    loads = [int(wanted[packs[p] - 7].sum()) for p in range(len(packs))]
    assert all(0 < load <= capacity for load in loads)
    # Two packs that would fit into one are never left (best fit would have joined them).
    assert len(loads) < 2 or sum(sorted(loads)[:2]) > capacity
    again = pack(items, wanted, capacity, np.random.RandomState(seed))
    assert np.array_equal(again.items, packs.items) and np.array_equal(again.offsets, packs.offsets)


def test_sequences_are_filled() -> None:
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(5.5, 0.8, 20_000).astype(np.int64) + 1, 2048)  # as of chats: median 245
    packs = pack(np.arange(len(sizes)), sizes, 2048, np.random.RandomState(0))
    assert sizes.sum() / (len(packs) * 2048) > 0.995
    lengths_met = [np.ptp(sizes[packs[p]]) for p in range(len(packs)) if len(packs[p]) > 1]
    assert np.median(lengths_met) > 100  # unlike ones meet


def test_another_epoch_and_another_seed_pack_otherwise(tmp_path: Path) -> None:
    prefix = write_sft_shard(tmp_path / "a", of_lengths([9] * 40))
    epochs = [TrainingSet([Source(prefix)], 32, seed).epoch(e) for seed in (0, 1) for e in (0, 1)]
    assert len({epoch.items.tobytes() for epoch in epochs}) == 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, epochs=st.integers(1, 3), batch=st.integers(1, 8), start=st.integers(0, 99), seed=SEEDS)
def test_a_run_of_whole_epochs(
    lengths: list[int], epochs: int, batch: int, start: int, seed: int, folder: Path
) -> None:
    prefix = write_sft_shard(folder / "a", of_lengths(lengths))
    argv = ["--srp-sft", prefix, "--srp-sft-epochs", str(epochs), "--seq-length", "64", "--seed", str(seed)]
    argv += ["--micro-batch-size", "1", "--global-batch-size", str(batch)]
    args = look_at(expand_flags(argv, 1))
    sft._open_once.cache_clear()  # the next example writes another shard under this name
    count = args.train_iters * batch
    sequences = Sequences(sft.training_set_of(args), count, args.srp_sft_epochs)
    taken = [sequences[i].tolist() for i in range(count)]
    assert Counter(i for own in taken for i in own) == Counter(dict.fromkeys(range(len(lengths)), epochs))
    assert sum(not own for own in taken) < batch  # only the last step is filled up
    resumed = Sequences(sft.training_set_of(args), count, args.srp_sft_epochs)
    assert [resumed[i].tolist() for i in range(min(start, count - 1), count)] == taken[min(start, count - 1) :]
    sft._open_once.cache_clear()


def test_a_run_of_so_many_steps_begins_further_epochs(tmp_path: Path) -> None:
    training_set = TrainingSet([Source(write_sft_shard(tmp_path / "a", of_lengths([33] * 7)))], 32, 0)
    sequences = Sequences(training_set, 1000)
    taken = [int(sequences[i][0]) for i in range(1000)]
    assert all(sorted(taken[i : i + 7]) == list(range(7)) for i in range(0, 994, 7))
    assert [int(sequences[i][0]) for i in (3, 999, 500)] == [taken[3], taken[999], taken[500]]  # in any order
    with pytest.raises(IndexError):
        sequences[1000]


def test_each_evaluation_sees_the_same(tmp_path: Path) -> None:
    held_out = TrainingSet([Source(write_sft_shard(tmp_path / "a", of_lengths([33] * 5)))], 32, 0)
    sequences = Sequences(held_out, 16, epochs=1, period=8)
    taken = [sequences[i].tolist() for i in range(16)]
    assert taken[:8] == taken[8:]
    assert sorted(i for own in taken[:8] for i in own) == list(range(5))


def test_shares(tmp_path: Path) -> None:
    prefixes = [write_sft_shard(tmp_path / name, of_lengths([5] * n, seed=n)) for name, n in (("a", 10), ("b", 20))]
    sources = parse_sources(["2", prefixes[0], "0.25", prefixes[1]], "--srp-sft")
    training_set = TrainingSet(sources, 64, 0)
    drawn = [Counter(training_set.epoch(e).items.tolist()) for e in (0, 1)]
    for counts in drawn:
        assert all(counts[i] == 2 for i in range(10))
        assert sorted(counts[i] for i in range(10, 30)) == [0] * 15 + [1] * 5
    assert drawn[0] != drawn[1]
    assert parse_sources(prefixes, "--srp-sft") == [Source(prefix) for prefix in prefixes]


def test_a_worker_process_maps_the_files_itself(tmp_path: Path) -> None:
    conversations = of_lengths([3000] * 50)
    training_set = TrainingSet([Source(write_sft_shard(tmp_path / "a", conversations))], 4096, 0)
    pickled = pickle.dumps(training_set)
    assert len(pickled) < 20_000
    ids, mask = pickle.loads(pickled)[7]
    assert (ids.tolist(), mask.tolist()) == conversations[7]


# Mistakes


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--seq-length", "30"], "a: 2 of 3 conversations are longer than --seq-length 30; the longest needs 49. Pass"),
        (["--srp-sft", "SHARD/none"], "none.bin: no such file"),
        (["--srp-sft", "-1", "SHARD/a"], "a share is how often an epoch uses a shard, and must be above 0"),
        (["--srp-sft", "0.01", "SHARD/a"], "an epoch of 0.01 of"),
        (["--srp-sft-epochs", "0"], "--srp-sft-epochs 0: must be at least 1"),
        (["--srp-sft-epochs", "2", "--train-iters", "9"], "both set the length: pass one"),
        (["--data-path", "x"], "--data-path and --srp-sft cannot be used together"),
        (["--mock-data"], "--mock-data and --srp-sft cannot be used together"),
        (["--srp-sidecar", "x.srp"], "--srp-sidecar is for pretraining"),
        (["--eval-iters", "3"], "--eval-iters 3 needs conversations to evaluate on: --srp-sft-valid PREFIX"),
        (["--rampup-batch-size", "1", "1", "9"], "with a growing batch: pass --train-samples"),
    ],
)
def test_mistakes_in_flags(flags: list[str], problem: str, tmp_path: Path) -> None:
    prefix = write_sft_shard(tmp_path / "a", of_lengths([50, 20, 40]))
    argv = ["--srp-sft", prefix, "--seq-length", "64", "--micro-batch-size", "1", *flags]
    with pytest.raises(SrpError) as raised:
        expand_flags([word.replace("SHARD", str(tmp_path)) for word in argv], 1)
    assert problem in str(raised.value)


def test_what_needs_the_shard() -> None:
    with pytest.raises(UsageError, match="--srp-sft-epochs needs --srp-sft PREFIX"):
        expand_flags(["--srp-sft-epochs", "2"], 1)
    assert expand_flags(["--lr", "1"], 1) == [*EVAL_INTERVAL, "--lr", "1"]


@pytest.mark.parametrize(
    ("conversations", "problem"),
    [
        ([([1, 2, 3], [0, 0, 0])], "no token has loss"),
        ([([1, 2, 3], [0, 1, 1]), ([1], [0])], "conversation 1 has 1 tokens"),
    ],
)
def test_shards_that_cannot_be_trained_on(conversations: list, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem):
        TrainingSet([Source(write_sft_shard(tmp_path / "a", conversations))], 32, 0)


def test_a_shard_without_its_manifest(tmp_path: Path) -> None:
    prefix = write_sft_shard(tmp_path / "a", of_lengths([9]))
    (tmp_path / "a.srp.json").unlink()
    with pytest.raises(InputError, match=r"a: no \.srp\.json next to it lists it as conversations"):
        TrainingSet([Source(prefix)], 32, 0)


def test_a_run_without_a_sequence_length(tmp_path: Path) -> None:
    prefix = write_sft_shard(tmp_path / "a", of_lengths([9]))
    with pytest.raises(UsageError, match="--srp-sft: pass --srp-preset or --seq-length"):
        expand_flags(["--srp-sft", prefix], 1)


def test_a_pretraining_shard_is_no_shard_of_conversations(tmp_path: Path) -> None:
    from tests.distributed.corpus import markov_documents, write_shard

    write_shard(tmp_path / "text_document", markov_documents(3))
    with pytest.raises(InputError, match="not a shard of conversations"):
        TrainingSet([Source(str(tmp_path / "text_document"))], 512, 0)
