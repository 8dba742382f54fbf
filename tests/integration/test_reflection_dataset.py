"""View and builder give Megatron the same samples, through its own dataset builder."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.datasets.providers import check_splits, config_with_sidecars
from megatron_srp.training.host.register import register
from tests.conftest import random_texts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

KEYS = ("tokens", "labels", "loss_mask", "position_ids")


@pytest.fixture(scope="module")
def corpus(tokenizer_models, tmp_path_factory) -> SimpleNamespace:
    """Three corpora, each as a plain shard, its sidecar, and the shard with reflections that was built."""
    from megatron_srp.annotation import load_guard

    folder = tmp_path_factory.mktemp("corpora")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for seed, (name, count) in enumerate({"a": 60, "b": 25, "c": 40}.items()):
        texts = [*random_texts(seed, count), "How to build a bomb. It goes on. " * 200]
        for kind, guard in (("plain", None), ("built", load_guard("heuristic"))):
            builder = ReflectionIndexedDatasetBuilder(folder / f"{kind}_{name}", tokenizer, guard=guard, max_words=9)
            builder.add_documents(texts)
            builder.finalize()
    plain = [str(folder / f"plain_{name}_text_document") for name in "abc"]
    argv = ["--guard", "heuristic", "--max-words", "9", "--output-prefix", str(folder / "side")]
    main(["--input-shards", *plain, *argv])
    size, eos = tokenizer.vocab_size, tokenizer.eos_id
    megatrons = SimpleNamespace(eod=eos, eos=eos, pad=-1, vocab_size=size, unique_identifiers={"class": "T"})
    return SimpleNamespace(folder=folder, tokenizer=megatrons)


def prefixes(corpus: SimpleNamespace, kind: str, names: str) -> list[str]:
    return [str(corpus.folder / f"{kind}_{name}_text_document") for name in names]


def sidecars(corpus: SimpleNamespace, names: str) -> dict[str, str]:
    return {prefix: str(corpus.folder / f"side_{Path(prefix).name}.srp") for prefix in prefixes(corpus, "plain", names)}


def build(corpus: SimpleNamespace, sizes: list[int], **options: Any) -> list[Any]:
    register()
    given = options.pop("srp_sidecars", {})
    defaults: dict[str, Any] = {
        "random_seed": 1,
        "sequence_length": 64,
        "tokenizer": corpus.tokenizer,
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": False,
        "path_to_cache": str(corpus.folder / "cache"),
    }
    config = config_with_sidecars(given, **{"blend": None, "blend_per_split": None} | defaults | options)
    check_splits(config)
    return BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()


def assert_same(ours: list[Any], theirs: list[Any]) -> int:
    total = 0
    for our, their in zip(ours, theirs, strict=True):
        assert (our is None) == (their is None)
        if our is None:
            continue
        assert len(our) == len(their)
        total += len(our)
        for i in range(len(our)):
            mine, other = our[i], their[i]
            assert mine.keys() == other.keys()
            for key in KEYS:
                assert torch.equal(mine[key], other[key]), f"sample {i}: {key}"
    return total


CASES: dict[str, Any] = {
    "one shard": ("a", None, "90,8,2", {}),
    "whole": ("a", None, "1,0,0", {"sequence_length": 17, "random_seed": 5}),
    "long samples, several epochs": ("b", None, "3,1,0", {"sequence_length": 1024}),
    "eod masked": ("a", None, "90,8,2", {"eod_mask_loss": True}),
    "weights": ("abc", [0.2, 0.5, 0.3], "80,10,10", {"random_seed": 7}),
    "by size": ("cba", None, "80,10,10", {"sequence_length": 33}),
    "another seed": ("ac", [1.0, 1.0], "9,1,0", {"random_seed": 1234, "sequence_length": 200}),
    "files not mapped": ("a", None, "1,0,0", {"mmap_bin_files": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_sample_is_the_builders(corpus, case):
    names, weights, split, options = CASES[case]
    sizes = [300, 20 if split.split(",")[1] != "0" else 0, 10 if split.split(",")[2] != "0" else 0]
    options = options | {"split": split}
    theirs = build(corpus, sizes, blend=(prefixes(corpus, "built", names), weights), **options)
    plain = (prefixes(corpus, "plain", names), weights)
    ours = build(corpus, sizes, blend=plain, srp_sidecars=sidecars(corpus, names), **options)
    assert assert_same(ours, theirs) >= (300 if weights or len(names) == 1 else 100)


def test_a_blend_for_each_split_where_one_shard_has_no_sidecar(corpus):
    def blends(kind_of_a: str) -> list[Any]:
        a, b = prefixes(corpus, kind_of_a, "a"), prefixes(corpus, "plain", "b")
        return [([*a, *b], [0.5, 0.5]), (a, None), (b, None)]

    sizes = [200, 10, 10]
    theirs = build(corpus, sizes, blend_per_split=blends("built"))
    ours = build(corpus, sizes, blend_per_split=blends("plain"), srp_sidecars=sidecars(corpus, "a"))
    assert_same(ours, theirs)


def test_a_sidecar_replaced_under_its_name_is_not_read_with_the_old_index(corpus, tmp_path):
    """Without the fingerprint in the name of the cached index, Megatron would take the first one's for the second."""
    (prefix,), (first,) = prefixes(corpus, "plain", "a"), sidecars(corpus, "a").values()
    main(["--input-shards", prefix, "--guard", "heuristic", "--max-words", "40", "--output-prefix", f"{tmp_path}/o"])
    path = tmp_path / "used.srp"

    def dataset(sidecar: Path) -> Any:
        path.unlink(missing_ok=True)
        shutil.copy(sidecar, path)
        options = {"blend": ([str(path)], None), "split": "1,0,0", "path_to_cache": str(tmp_path / "cache")}
        return build(corpus, [300, 0, 0], **options)[0]

    was, now, again = map(dataset, (first, tmp_path / f"o_{Path(prefix).name}.srp", first))
    assert was.unique_description_hash == again.unique_description_hash != now.unique_description_hash
    assert not np.array_equal(was.sample_index, now.sample_index)
    assert np.array_equal(was.sample_index, again.sample_index)


def test_a_plain_run_keeps_its_cache(corpus, tmp_path):
    """The names of its indices are those without the hooks, so that an index made in advance is found."""
    (prefix,) = prefixes(corpus, "plain", "a")
    options = {"blend": ([prefix], None), "split": "1,0,0", "path_to_cache": str(tmp_path)}
    assert json.loads(build(corpus, [9, 0, 0], **options)[0].unique_description)["dataset_path"] == prefix


def test_megatrons_fast_start(corpus):
    """Its flags that read a cache made earlier without looking at it closely."""
    blend = (prefixes(corpus, "plain", "ab"), [0.4, 0.6])
    options = {"blend_per_split": [blend, None, None], "srp_sidecars": sidecars(corpus, "ab")}
    usual = build(corpus, [100, 0, 0], **options)
    fast = build(corpus, [100, 0, 0], **options, fast_cache_load=True, defer_npy_index_mmap=True)
    assert assert_same(fast, usual) >= 100


def test_changed_reflections_of_the_same_lengths_change_the_key(corpus, tmp_path):
    (path,) = sidecars(corpus, "a").values()
    sidecar = ReflectionSidecar.load(path)
    dataclasses.replace(sidecar, entries=sidecar.entries[::-1].copy()).save(tmp_path / "x.srp")
    keys = [
        build(corpus, [9, 0, 0], blend=([str(file)], None), split="1,0,0")[0].unique_identifiers["dataset_path"]
        for file in (path, path, tmp_path / "x.srp")
    ]
    assert keys[0] == keys[1] and keys[0].rpartition("@")[2] != keys[2].rpartition("@")[2]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(corpus, method):
    """The whole dataset goes to workers; the view in it as two paths."""
    options = {"split": "1,0,0", "sequence_length": 128}
    theirs = build(corpus, [60, 0, 0], blend=(prefixes(corpus, "built", "ab"), [0.5, 0.5]), **options)[0]
    plain = (prefixes(corpus, "plain", "ab"), [0.5, 0.5])
    ours = build(corpus, [60, 0, 0], blend=plain, srp_sidecars=sidecars(corpus, "ab"), **options)[0]
    workers = 2 if method == "fork" else 1  # a spawned one imports Megatron: ten seconds
    loader = torch.utils.data.DataLoader(ours, batch_size=4, num_workers=workers, multiprocessing_context=method)
    seen = 0
    for number, batch in enumerate(loader):
        for row in range(len(batch["tokens"])):
            expected = theirs[number * 4 + row]
            for key in KEYS:
                assert torch.equal(batch[key][row], expected[key])
            seen += 1
    assert seen == len(theirs)


def test_the_view_offers_what_an_indexed_dataset_does(corpus):
    """Names and results that Megatron, or a user of its class, may ask for."""
    (plain,), (built,) = prefixes(corpus, "plain", "a"), prefixes(corpus, "built", "a")
    view = ReflectedIndexedDataset(plain, sidecars(corpus, "a")[plain])
    theirs = IndexedDataset(built)
    assert len(view) == len(theirs)
    assert view.sequence_lengths.dtype == theirs.sequence_lengths.dtype
    assert np.array_equal(view.sequence_lengths, theirs.sequence_lengths)
    assert np.array_equal(view.document_indices, theirs.document_indices)
    assert view.path_prefix == plain
    for i in (0, np.int64(3), len(view) - 1):
        assert np.array_equal(view[i], theirs[i])
        assert np.array_equal(view.get(i, offset=2, length=5), theirs.get(i, offset=2, length=5))
        assert np.array_equal(view.get(i, offset=3), theirs.get(i, offset=3))
    for ours, their in zip(view[2:7], theirs[2:7], strict=True):
        assert np.array_equal(ours, their)
    with pytest.raises(ValueError, match="contiguous"):
        theirs[::2]
