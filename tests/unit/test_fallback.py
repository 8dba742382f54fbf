"""A difference between gigatoken and the reference tokenizer is found, and met the same way wherever a run stopped."""

import json

import numpy as np
import pytest

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.preprocess.text_pipeline import Preprocessor
from megatron_srp.tokenization.base import TokenBatch
from megatron_srp.tokenization.gigatoken_pool import GigatokenPool
from tests.conftest import random_texts
from tests.helpers.killing import contents


@pytest.fixture
def files(tmp_path):
    """Three files, the second of which the broken gigatoken below gets wrong."""
    paths = [tmp_path / f"in{i}.jsonl" for i in range(3)]
    for i, path in enumerate(paths):
        texts = [("wrong " if i == 1 else "") + text for text in random_texts(i, 60, 40)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return paths


@pytest.fixture(autouse=True)
def broken_gigatoken(monkeypatch):
    encode = GigatokenPool.encode

    def wrong(self, batch: TextBatch) -> TokenBatch:
        tokens = encode(self, batch)
        if not bytes(batch.text).startswith(b"wrong"):
            return tokens
        return TokenBatch(np.where(tokens.tokens == tokens.tokens[0], 0, tokens.tokens), tokens.offsets)

    monkeypatch.setattr(GigatokenPool, "encode", wrong)


def job(files, prefix, tokenizer, warnings, **options) -> Preprocessor:
    builder = ReflectionIndexedDatasetBuilder(prefix, tokenizer, guard=None)
    return Preprocessor(files, builder, workers=2, chunk_documents=20, warn=warnings.append, **options)


class Stopped(Exception):
    pass


def test_all_documents_from_the_difference_on_go_to_the_reference(files, tmp_path, tokenizer):
    warnings: list[str] = []
    job(files, tmp_path / "out" / "c", tokenizer, warnings).run()
    assert len(warnings) == 1
    assert "in1.jsonl, row 1: gigatoken differs" in warnings[0]
    ids = np.fromfile(tmp_path / "out" / "c_text_document.bin", np.uint16)
    texts = [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]
    assert ids.tolist() == [i for text in texts for i in [*tokenizer.encode(text), tokenizer.eos_id]]


@pytest.mark.parametrize("stop_after", [40, 80, 140])
def test_a_resumed_run_goes_on_in_the_same_way(files, tmp_path, tokenizer, stop_after):
    job(files, tmp_path / "whole" / "c", tokenizer, []).run()

    def stop(progress) -> None:
        if progress.documents >= stop_after:
            raise Stopped

    with pytest.raises(Stopped):
        job(files, tmp_path / "stopped" / "c", tokenizer, [], report=stop).run()
    resumed = job(files, tmp_path / "stopped" / "c", tokenizer, [])
    assert resumed.builder.position
    resumed.run()
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
