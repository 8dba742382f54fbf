"""Flags that name data: which shards a run reads, and whose tokenizer it takes."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.errors import InputError, UsageError
from megatron_srp.training.checks import data as shards
from megatron_srp.training.flags.command_line import look_at


def make_shard(prefix: Path, num_sequences: int = 7) -> str:
    """A shard as far as its header goes."""
    Path(f"{prefix}.bin").touch()
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, num_sequences, num_sequences + 1)
    Path(f"{prefix}.idx").write_bytes(header)
    return str(prefix)


@pytest.fixture
def shard(tmp_path: Path) -> str:
    return make_shard(tmp_path / "corpus_text_document")


@pytest.fixture
def manifests(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Manifests by shard; a tokenizer's fingerprint is that of its path, repeated."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(shards, "find_manifest", found.get)
    monkeypatch.setattr(shards, "_fingerprint", lambda kind, model: f"{kind}:{Path(model).name}")
    return found


def check_shards(*argv: str) -> tuple[list[str], list[str]]:
    return shards.check_shards(look_at(list(argv)))


def test_data_is_needed(manifests: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="pass --data-path"):
        check_shards()
    assert check_shards("--mock-data") == ([], [])


def test_shards_without_a_manifest_are_allowed(shard: str, manifests: dict[str, Any]) -> None:
    flags, (note,) = check_shards("--data-path", shard, "--tokenizer-type", "NullTokenizer")
    assert flags == []
    assert note.startswith(f"{shard} has no .srp.json")


@pytest.mark.parametrize(
    "argv",
    [
        ["--data-path", "a", "b", "c"],
        ["--data-path", "0.3", "a", "0.7", "b", "1", "c"],
        ["--train-data-path", "a", "--valid-data-path", "0.5", "b", "0.5", "c"],
        ["--train-data-path", "a", "b", "--valid-data-path", "c", "--test-data-path", "a"],
    ],
)
def test_all_ways_to_name_shards(argv: list[str]) -> None:
    assert shards.shard_prefixes(look_at(argv)) == ["a", "b", "c"]


def test_shards_named_in_files(tmp_path: Path) -> None:
    one = tmp_path / "blend.txt"
    one.write_text("0.3 a\n0.7 b\n")
    assert shards.shard_prefixes(look_at(["--data-args-path", str(one)])) == ["a", "b"]
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": "1 a 2 b", "valid": ["c"], "test": None}))
    args = look_at(["--per-split-data-args-path", str(splits)])
    assert shards.shard_prefixes(args) == ["a", "b", "c"]
    splits.write_text("[1]")
    with pytest.raises(InputError, match="not a JSON object"):
        shards.shard_prefixes(args)


def test_a_missing_file_of_shards() -> None:
    with pytest.raises(InputError, match=r"--data-args-path nowhere.txt: No such file"):
        shards.shard_prefixes(look_at(["--data-args-path", "nowhere.txt"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("corpus", r"did you mean .*/corpus_text_document\?"),
        ("corpus_text_document.bin", r"pass the shard's prefix, .*/corpus_text_document, without .bin"),
        ("nothing", r"nothing.bin and .*nothing.idx do not exist"),
    ],
)
def test_missing_shards(shard: str, manifests: dict[str, Any], given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_shards("--data-path", str(Path(shard).parent / given))


def test_half_a_shard(shard: str, manifests: dict[str, Any]) -> None:
    Path(shard + ".idx").unlink()
    with pytest.raises(InputError, match=r"document.idx is missing"):
        check_shards("--data-path", shard)


def test_sequences_are_counted(shard: str, manifests: dict[str, Any]) -> None:
    assert shards.num_sequences(shard) == 7
    Path(shard + ".idx").write_bytes(b"MMIDIDX")
    with pytest.raises(InputError, match="not a Megatron index"):
        check_shards("--data-path", shard)


# Tokenizers


def test_shards_without_a_manifest_need_a_tokenizer(shard: str, manifests: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"no tokenizer: {shard} has no manifest"):
        check_shards("--data-path", shard)
    flags, _ = check_shards("--data-path", shard, "--use-checkpoint-args")
    assert flags == []


@pytest.mark.parametrize("model", ["/nowhere/gpt2", "./gpt2", "a/b/gpt2"])
def test_a_tokenizer_that_is_not_there(shard: str, manifests: dict[str, Any], model: str) -> None:
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model"]
    with pytest.raises(InputError, match=f"{model}: no such file"):
        check_shards("--data-path", shard, *tokenizer, model)
    check_shards("--data-path", shard, *tokenizer, "gpt2")  # may be on the hub


def manifest_of(model: Path | str, fingerprint: str | None = None) -> dict[str, Any]:
    kind = "HuggingFaceTokenizer"
    fingerprint = fingerprint or f"{kind}:{Path(model).name}"
    return {"tokenizer": {"type": kind, "model": str(model), "fingerprint": fingerprint}}


def test_the_shards_name_their_tokenizer(shard: str, manifests: dict[str, Any], tmp_path: Path) -> None:
    manifests[shard] = manifest_of(tmp_path)
    flags, notes = check_shards("--data-path", shard)
    assert flags == ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tmp_path)]
    assert notes == []
    moved = tmp_path / "elsewhere" / tmp_path.name
    moved.mkdir(parents=True)
    flags, _ = check_shards("--data-path", shard, "--tokenizer-model", str(moved))
    assert flags == ["--tokenizer-type", "HuggingFaceTokenizer"]


def test_the_named_tokenizer_is_gone(shard: str, manifests: dict[str, Any], tmp_path: Path) -> None:
    manifests[shard] = manifest_of(tmp_path / "gone")
    with pytest.raises(InputError, match=r"made with the tokenizer .*/gone, which is missing"):
        check_shards("--data-path", shard)


def test_another_tokenizer_is_refused(shard: str, manifests: dict[str, Any], tmp_path: Path) -> None:
    manifests[shard] = manifest_of(tmp_path)
    with pytest.raises(UsageError, match=r"not other .*preprocess the corpus again"):
        check_shards("--data-path", shard, "--tokenizer-model", "other")


def test_a_blend_of_two_tokenizers_is_refused(shard: str, manifests: dict[str, Any], tmp_path: Path) -> None:
    second = make_shard(tmp_path / "second")
    manifests |= {shard: manifest_of(tmp_path), second: manifest_of(tmp_path, "another")}
    with pytest.raises(UsageError, match=f"^{second}: its tokenizer"):
        check_shards("--data-path", "1", shard, "2", second)
