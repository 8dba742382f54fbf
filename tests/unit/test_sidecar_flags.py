"""`--srp-sidecar`: what belongs together is found, and what does not is refused before Megatron starts."""

import shutil
from pathlib import Path

import pytest

from megatron_srp.annotation import load_guard
from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.errors import SrpError
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.checks import data as shards
from megatron_srp.training.flags.command_line import look_at
from tests.conftest import random_texts


def look(*argv: object):
    return look_at([str(item) for item in argv])


@pytest.fixture(scope="module")
def folder(tokenizer_models, tmp_path_factory) -> Path:
    """Plain shards a, b and c, sidecars of them under r, others under special (with added tokens), and a
    shard with reflections, built."""
    folder = tmp_path_factory.mktemp("shards")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for seed, name in enumerate("abc"):
        builder = ReflectionIndexedDatasetBuilder(folder / name, tokenizer, guard=None)
        builder.add_documents(random_texts(seed, 8))
        builder.finalize()
    builder = ReflectionIndexedDatasetBuilder(folder / "built", tokenizer, guard=load_guard("heuristic"))
    builder.add_documents(random_texts(0, 8))
    builder.finalize()
    plain = [str(shard(folder, name)) for name in "abc"]
    for name, more in (("r", []), ("special", ["--reflection-tokens", "special"])):
        argv = ["--guard", "heuristic", "--output-prefix", str(folder / name), *more]
        main(["--input-shards", *plain, *argv])
    return folder


def shard(folder: Path, name: str) -> Path:
    return folder / f"{name}_text_document"


def test_each_sidecar_finds_its_shard(folder, tokenizer_models):
    data = [shard(folder, "a"), shard(folder, "b"), shard(folder, "c")]
    sidecars = [folder / f"r_{name}_text_document.srp" for name in "cab"]
    args = look("--data-path", "1", data[0], "2", data[1], "3", data[2], "--srp-sidecar", *sidecars)
    matched = shards.match_sidecars(args.srp_sidecar, shards.shard_prefixes(args))
    assert matched == {str(d): str(s) for d, s in zip(data, [sidecars[1], sidecars[2], sidecars[0]], strict=True)}
    flags, notes = shards.check_shards(args)
    assert flags == [
        "--tokenizer-type",
        tokenizer_models["gpt2"][0],
        "--tokenizer-model",
        str(tokenizer_models["gpt2"][1]),
    ]
    assert notes == []


def test_a_copy_under_another_name_is_the_same_shard(folder, tmp_path):
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{shard(folder, 'a')}{suffix}", tmp_path / f"moved{suffix}")
    sidecar = folder / "r_a_text_document.srp"
    args = look("--train-data-path", tmp_path / "moved", "--srp-sidecar", sidecar)
    flags, notes = shards.check_shards(args)
    assert flags[0] == "--tokenizer-type"  # the sidecar names it: this shard has no manifest
    assert notes == []


def test_added_tokens_want_the_extended_tokenizer(folder, tokenizer_models):
    """Which the sidecar names; the plain text beside it may be of the tokenizer that was extended."""
    data = [shard(folder, "a"), shard(folder, "b")]
    args = look("--data-path", *data, "--srp-sidecar", folder / "special_a_text_document.srp")
    flags, notes = shards.check_shards(args)
    assert flags[3] == str(folder / "special_tokenizer")
    assert notes == [f"{data[1]} has no sidecar (--srp-sidecar FILE.srp): trained on without reflections"]
    args = look(
        *("--data-path", *data, "--srp-sidecar", folder / "special_a_text_document.srp"),
        *("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", tokenizer_models["gpt2"][1]),
    )
    with pytest.raises(SrpError, match="the token ids would mean other text"):
        shards.check_shards(args)


def test_a_built_shard_in_the_blend_needs_no_note(folder):
    data = [shard(folder, "a"), shard(folder, "built")]
    _, notes = shards.check_shards(look("--data-path", *data, "--srp-sidecar", folder / "r_a_text_document.srp"))
    assert notes == []


def test_a_sidecar_beside_the_shard_that_nobody_named(folder, tmp_path):
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{shard(folder, 'a')}{suffix}", tmp_path / f"a{suffix}")
    kind, model = "HuggingFaceTokenizer", folder / "special_tokenizer"
    argv = ["--data-path", tmp_path / "a", "--tokenizer-type", kind, "--tokenizer-model", model]
    shutil.copy(folder / "special_a_text_document.srp", tmp_path / "a.srp")
    _, notes = shards.check_shards(look(*argv))
    assert notes[-1].endswith(f"trained on without reflections; to use it: --srp-sidecar {tmp_path / 'a.srp'}")
    (tmp_path / "a.srp").write_bytes(b"not one")
    assert len(shards.check_shards(look(*argv))[1]) == 1  # only that there is no manifest


def test_mistakes(folder, tmp_path):
    damaged = tmp_path / "damaged.srp"
    damaged.write_bytes((folder / "r_a_text_document.srp").read_bytes()[:900])
    a, b = shard(folder, "a"), shard(folder, "b")
    r_a, special_a = folder / "r_a_text_document.srp", folder / "special_a_text_document.srp"
    for sidecars, message in (
        ([tmp_path / "none.srp"], "none.srp: no such file"),
        ([damaged], "not a reflection sidecar, or damaged"),
        ([f"{a}.idx"], "not a reflection sidecar, or damaged"),
        ([f"{shard(folder, 'built')}.srp"], "its reflections are in the shard next to it already"),
        ([folder / "r_c_text_document.srp"], "made for the shard c_text_document with other content"),
        ([r_a, special_a], f"are both for {a}; pass one"),
    ):
        with pytest.raises(SrpError, match=message) as caught:
            shards.check_shards(look("--data-path", a, b, "--srp-sidecar", *sidecars))
        assert "\n" not in str(caught.value)
    with pytest.raises(SrpError, match="--mock-data"):
        shards.check_shards(look("--mock-data", "--srp-sidecar", r_a))


def test_a_shard_that_changed_since_is_another_shard(folder, tmp_path):
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{shard(folder, 'a')}{suffix}", tmp_path / f"a_text_document{suffix}")
    with (tmp_path / "a_text_document.bin").open("r+b") as file:
        file.write(b"\x07\x00")
    args = look("--data-path", tmp_path / "a_text_document", "--srp-sidecar", folder / "r_a_text_document.srp")
    with pytest.raises(SrpError, match="with other content than that of"):
        shards.check_shards(args)
