"""Shards that cannot be taken, and runs that do not fit what is there: one line each."""

from pathlib import Path

import pytest

from megatron_srp.cli.preprocess import main
from megatron_srp.data.preprocess.shard_pipeline import ShardJob
from megatron_srp.data.shards.manifest import find_manifest
from megatron_srp.errors import SrpError, UsageError
from tests.helpers.plain_shards import TEXTS, build, flags, write_shard


def test_names_of_the_output(tokenizer_models, tmp_path, capsys):
    """PREFIX_SHARD.srp, or the shard's own name where it begins with the prefix's."""
    family = tokenizer_models["gpt2"]
    plain = write_shard(tmp_path / "corpus_text_document", [[1, 2, 3]])
    for prefix, name in (("out/corpus", "corpus_text_document"), ("out/r100", "r100_corpus_text_document")):
        main([*flags(family), "--input-shards", str(plain), "--output-prefix", str(tmp_path / prefix)])
        path = tmp_path / "out" / f"{name}.srp"
        assert f" --srp-sidecar {path} ...\n" in capsys.readouterr().out
        assert path.exists()
    main([*flags(family), "--input-shards", f"{tmp_path}/corp*", "--output-prefix", str(tmp_path / "corpus")])
    assert Path(f"{plain}.srp").exists() and find_manifest(plain) is None


def test_mistakes_are_one_line(tokenizer_models, tmp_path, tokenizer):
    family = tokenizer_models["gpt2"]
    plain = build(tmp_path / "plain", tokenizer, None, TEXTS[:5])
    reflected = build(tmp_path / "reflected", tokenizer, "heuristic", TEXTS[:5])
    size = tokenizer.vocab_size
    foreign = write_shard(tmp_path / "foreign", [[1, 2], [3, size - 1, size, 4]])
    mine = write_shard(tmp_path / "my_own", [[1, 2]])
    (tmp_path / "d").mkdir()
    namesake = write_shard(tmp_path / "d" / "foreign", [[1]])
    broken = write_shard(tmp_path / "broken", [[1, 2], [3]], [0, 1])
    named = flags(family)
    kind, model = tokenizer_models["sentencepiece"]
    cases = [
        (["--input-shards", str(plain), "--input", "x"], "pass either --input"),
        ([], "pass either --input"),
        (["--input-shards", str(plain), "--append-eod"], "--append-eod cannot be used"),
        (["--input-shards", str(plain), "--guard", "none"], "leaves nothing to do"),
        (["--input", "x", "--materialize"], "--materialize is for --input-shards"),
        (["--input-shards", str(tmp_path / "nowhere")], "no such file; a shard is PREFIX.bin"),
        (["--input-shards", f"{tmp_path}/nowhere*"], "no shard matches"),
        (["--input-shards", f"{plain}.bin"], "pass the shard's prefix"),
        (["--input-shards", str(plain), str(plain)], "twice"),
        (["--input-shards", str(reflected)], "contains reflections already"),
        (["--input-shards", str(plain), "--tokenizer-type", kind, "--tokenizer-model", str(model)], "was made with"),
        (["--input-shards", str(foreign)], f"foreign, sequence 1: token {size} is not one of the tokenizer's {size}"),
        (["--input-shards", str(foreign), str(namesake)], "two shards would become out_foreign"),
        (["--input-shards", str(broken)], "its documents are not those of its 2 sequences"),
        (["--input-shards", str(plain), "--output-prefix", str(tmp_path / "plain")], "is that of the input itself"),
        (
            ["--input-shards", str(mine), "--materialize", "--output-prefix", str(tmp_path / "my")],
            "is that of the input itself",
        ),
    ]
    for argv, message in cases:
        argv = [*named, "--output-prefix", str(tmp_path / "out"), *argv]
        with pytest.raises(SrpError) as caught:
            main(argv)
        assert message in str(caught.value), argv
        assert "\n" not in str(caught.value)
    unnamed = ["--guard", "heuristic", "--output-prefix", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="no manifest to take the tokenizer from"):
        main([*unnamed, "--input-shards", str(namesake)])
    assert not list(tmp_path.glob("out*"))


def test_a_word_level_tokenizer_is_refused(tmp_path):
    from tests.distributed.corpus import write_tokenizer

    write_tokenizer(tmp_path / "words")
    plain = write_shard(tmp_path / "old", [[1, 2, 3]])
    argv = flags(("HuggingFaceTokenizer", tmp_path / "words"))
    with pytest.raises(UsageError, match="does not define which bytes of text its tokens stand for"):
        main([*argv, "--input-shards", str(plain), "--output-prefix", str(tmp_path / "o")])


@pytest.mark.parametrize("changed", ["max_words", "input_shards"])
def test_other_settings_on_a_half_done_output(tokenizer_models, tmp_path, monkeypatch, changed):
    monkeypatch.setattr("megatron_srp.data.preprocess.shard_blocks.BLOCK_TOKENS", 2)
    family = tokenizer_models["gpt2"]
    plain = write_shard(tmp_path / "old", [[1, 2], [3, 4]])
    argv = ["--input-shards", str(plain), "--output-prefix", str(tmp_path / "o"), "--workers", "1"]
    argv += ["--chunk-documents", "1"]
    commit = ShardJob._commit

    def stop(job, position):
        commit(job, position)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardJob, "_commit", stop)
        with pytest.raises(KeyboardInterrupt):
            main([*flags(family), *argv])
    if changed == "input_shards":
        write_shard(tmp_path / "old", [[1, 2], [3]])
    with pytest.raises(UsageError, match=rf"half-done run with other settings: {changed}\S* was"):
        main([*flags(family, 9 if changed == "max_words" else 8), *argv])
