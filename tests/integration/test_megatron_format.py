"""What we write, held against megatron.core.datasets.indexed_dataset."""

import numpy as np
import pytest

from megatron_srp.data.shards.indexed_shard import IndexedShard, token_dtype, write_index

indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
torch = pytest.importorskip("torch")


@pytest.mark.parametrize("vocab_size", [1000, 65499, 65500, 151936])
def test_files_are_those_of_megatrons_writer(tmp_path, vocab_size):
    rng = np.random.default_rng(vocab_size)
    sequences = [rng.integers(0, vocab_size, rng.integers(1, 200)) for _ in range(500)]
    dtype = token_dtype(vocab_size)
    assert dtype == indexed_dataset.DType.optimal_dtype(vocab_size)
    theirs = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype.type)
    for sequence in sequences:
        theirs.add_document(torch.tensor(sequence), [len(sequence)])
    theirs.finalize(str(tmp_path / "theirs.idx"))
    np.concatenate(sequences).astype(dtype).tofile(tmp_path / "ours.bin")
    with (tmp_path / "ours.idx").open("wb") as file:
        write_index(file, np.array([len(s) for s in sequences], np.int32), dtype)
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()


def test_megatron_reads_what_the_builder_wrote(tmp_path, tokenizer, guard):
    from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
    from tests.conftest import random_texts

    builder = ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=guard, max_words=20)
    builder.add_documents(random_texts(31, 80))
    builder.finalize()
    shard = IndexedShard(tmp_path / "c_text_document")
    theirs = indexed_dataset.IndexedDataset(str(tmp_path / "c_text_document"))
    rebuilt = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "again.bin"), dtype=shard.dtype.type)
    assert len(theirs) == len(shard)
    for i in range(len(shard)):
        assert np.array_equal(theirs[i], shard[i])
        rebuilt.add_document(torch.tensor(theirs[i].astype(np.int64)), [len(theirs[i])])
    rebuilt.finalize(str(tmp_path / "again.idx"))
    assert np.array_equal(theirs.document_indices, shard.documents)
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"again.{suffix}").read_bytes() == (tmp_path / f"c_text_document.{suffix}").read_bytes()
