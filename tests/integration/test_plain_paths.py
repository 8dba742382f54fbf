"""What the data plane is compared with does the same work: all ways write the same plain shard."""

from pathlib import Path

import pytest

from megatron_srp.benchmarks.plain_paths import gigatoken_plain, hf_pool, whole_file
from megatron_srp.toy_corpus.corpus import write_corpus


@pytest.mark.slow  # the last one imports Megatron's arguments, as the tool that it stands for does
def test_all_ways_write_the_same_shard(tokenizer_models: dict[str, tuple[str, Path]], tmp_path: Path) -> None:
    kind, model = tokenizer_models["gpt2"]
    write_corpus(tmp_path / "corpus.jsonl", 20)
    for way in (hf_pool, gigatoken_plain, whole_file):
        way(kind, str(model), tmp_path / "corpus.jsonl", tmp_path / way.__name__, 2)
    for suffix in (".bin", ".idx"):
        found = {(tmp_path / f"{way.__name__}{suffix}").read_bytes() for way in (hf_pool, gigatoken_plain, whole_file)}
        assert len(found) == 1 and found.pop()
