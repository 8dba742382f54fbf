"""Reflections for shards that exist already: same cuts as from the text, and not a token changed."""

import contextlib
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_srp.cli.preprocess import main
from megatron_srp.data.align import align_document
from megatron_srp.data.preprocess.shard_blocks import read_blocks
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.manifest import find_manifest, read_manifest
from megatron_srp.data.shards.sidecar import ReflectionSidecar, describe_shard
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import InputError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import Verdict
from megatron_srp.segmentation import segment_text
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from tests.conftest import ANY_SPEED, random_texts
from tests.helpers.killing import kill_and_resume
from tests.helpers.plain_shards import TEXTS, build, flags, write_shard


@pytest.fixture
def family(request, tokenizer_models):
    return tokenizer_models[request.param]


BOTH = pytest.mark.parametrize("family", ["gpt2", "sentencepiece"], indirect=True)


@pytest.mark.parametrize("form", ["text", "special"])
@pytest.mark.parametrize("append_eod", [True, False])
def test_a_plain_shard_gets_what_the_builder_makes_of_the_text(any_tokenizer, tmp_path, append_eod, form):
    settings = {"append_eod": append_eod, "form": ReflectionFormat(special_tokens=form == "special")}
    plain = build(tmp_path / "plain", any_tokenizer, None, append_eod=append_eod)
    reflected = build(tmp_path / "reflected", any_tokenizer, "heuristic", **settings)
    common = ["--input-shards", str(plain), "--guard", "heuristic", "--max-words", "8", "--reflection-tokens", form]
    assert main([*common, "--output-prefix", str(tmp_path / "s")]) == 0  # the tokenizer is the manifest's
    ours, theirs = (ReflectionSidecar.load(p) for p in (tmp_path / "s_plain_text_document.srp", f"{reflected}.srp"))
    assert len(theirs.cuts) > 200
    assert ours.fingerprint == theirs.fingerprint
    assert ours.table.entries == theirs.table.entries
    assert not ours.materialized
    for name in ("tokenizer", "reflection", "max_words"):
        assert ours.info[name] == theirs.info[name]
    view = ReflectedIndexedDataset(plain, tmp_path / "s_plain_text_document.srp")
    assert np.concatenate(view[:]).tobytes() == IndexedShard(reflected).tokens.tobytes()

    assert main([*common, "--materialize", "--output-prefix", str(tmp_path / "m")]) == 0
    for suffix in ("bin", "idx", "srp"):
        made, built = Path(f"{tmp_path}/m_plain_text_document.{suffix}"), Path(f"{reflected}.{suffix}")
        assert made.read_bytes() == built.read_bytes(), suffix
    assert find_manifest(tmp_path / "m_plain_text_document") == read_manifest(tmp_path / "m.srp.json")
    with pytest.raises(InputError, match="carry no reflections"):
        strip_reflections(tmp_path / "s", tmp_path / "nothing")
    manifests = [read_manifest(tmp_path / f"{name}.srp.json") for name in ("s", "m", "reflected")]
    counts = [m["counts"] | {"empty_documents": 0} for m in manifests]
    assert counts[0] == counts[1] == counts[2]
    assert manifests[0]["tokenizer"]["fingerprint"] == manifests[2]["tokenizer"]["fingerprint"]
    assert Path(manifests[0]["tokenizer"]["model"]).exists()
    assert ours.info["training_tokenizer"] == manifests[0]["tokenizer"]
    assert ours.info["shard"] == describe_shard(plain) | {"path": str(plain)}


def random_sequences(seed: int, tokenizer: TextTokenizer) -> list[list[int]]:
    """Ids as they come, so that characters are torn and nothing survives a round trip; texts of several
    documents with end-of-document ids between, at the start, doubled; empty ones."""
    rng = random.Random(seed)
    eod = tokenizer.require_eos()
    text = [*map(tokenizer.encode, random_texts(seed, 12, 80))]
    sequences = [rng.choices(range(tokenizer.vocab_size), k=rng.randrange(300)) for _ in range(12)]
    sequences += [[*a, eod, *b] for a, b in pairwise(text)]
    sequences += [[eod, *text[0], eod, eod, *text[1], eod], [], [eod], [eod, eod]]
    rng.shuffle(sequences)
    return sequences


def defined_cuts(tokenizer: TextTokenizer, document: list[int], max_words: int) -> list[tuple[int, bool]]:
    """By the definitions: how many of the document's tokens lie before each cut, and whether eod is next."""
    widths, eod = tokenizer.token_text(), tokenizer.require_eos()
    cuts, begin = [], 0
    for end in [*(i for i, token in enumerate(document) if token == eod), len(document)]:
        pieces = [widths[token] for token in document[begin:end]]
        prefix = int(tokenizer.extra_bytes > 0 and b"".join(pieces).startswith(b" "))
        raw = b"".join(pieces)[prefix:].decode(errors="surrogateescape")
        text = "".join("\x1a" if "\udc80" <= c <= "\udcff" else c for c in raw)
        ends = [len(text[: segment.end].encode()) + prefix for segment in segment_text(text, max_words)]
        own = align_document(ends, [len(piece) for piece in pieces])
        cuts += [(begin + cut, end < len(document) and i == len(own) - 1) for i, cut in enumerate(own)]
        begin = end + 1
    return cuts


@BOTH
@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64", "int16"])
@pytest.mark.parametrize("seed", range(3))
def test_any_tokens_are_cut_as_defined_and_kept(family, tmp_path, dtype, seed):
    tokenizer = load_tokenizer(*family)
    sequences = random_sequences(seed, tokenizer)
    plain = write_shard(tmp_path / "old", sequences, dtype=dtype)
    before = plain.with_suffix(".bin").read_bytes()
    for extra in ([], ["--materialize"]):
        name = "m" if extra else "s"
        main([*flags(family), "--input-shards", str(plain), "--output-prefix", str(tmp_path / name), *extra])
    sidecar = ReflectionSidecar.load(tmp_path / "s_old.srp")
    view = ReflectedIndexedDataset(plain, tmp_path / "s_old.srp")
    made = IndexedShard(tmp_path / "m_old")
    assert made.dtype == (dtype if dtype in ("uint16", "int32") else "int32")
    for i, sequence in enumerate(sequences):
        own = slice(sidecar.offsets[i], sidecar.offsets[i + 1])
        expected = defined_cuts(tokenizer, sequence, 8)
        assert sidecar.cuts[own].tolist() == [cut for cut, _ in expected]
        for entry, (_, before_eod) in zip(sidecar.entries[own], expected, strict=True):
            reflection = sidecar.table.entries[entry]
            assert reflection.stop == (reflection.label.verdict is not Verdict.SAFE and not before_eod)
        assert made[i].tolist() == view[i].tolist()
    assert plain.with_suffix(".bin").read_bytes() == before
    strip_reflections(tmp_path / "m", tmp_path / "again")
    assert IndexedShard(tmp_path / "again_old").tokens.tolist() == [t for sequence in sequences for t in sequence]


@BOTH
def test_documents_of_several_sequences_are_judged_whole(family, tmp_path):
    """A document cut into sequences anywhere gets the reflections it would get in one, and the document
    index is kept."""
    tokenizer = load_tokenizer(*family)
    rng = random.Random(4)
    documents = [*map(tokenizer.encode, random_texts(17, 20)), [], [tokenizer.require_eos()]]
    sequences, boundaries = [], [0]
    for document in documents:
        edges = [0, *sorted(rng.choices(range(len(document) + 1), k=3)), len(document)]
        sequences += [document[a:b] for a, b in pairwise(edges)]
        boundaries.append(len(sequences))
    split = write_shard(tmp_path / "split", sequences, boundaries)
    whole = write_shard(tmp_path / "whole", documents)
    argv = [*flags(family), "--materialize", "--input-shards", str(split), str(whole)]
    main([*argv, "--output-prefix", str(tmp_path / "m")])
    ours, theirs = IndexedShard(tmp_path / "m_split"), IndexedShard(tmp_path / "m_whole")
    assert ours.tokens.tobytes() == theirs.tokens.tobytes()
    assert ours.documents.tolist() == boundaries
    strip_reflections(tmp_path / "m", tmp_path / "again")
    for suffix in ("bin", "idx"):
        assert Path(f"{tmp_path}/again_split.{suffix}").read_bytes() == Path(f"{split}.{suffix}").read_bytes()


@BOTH
def test_blocks_chunks_and_workers_do_not_change_the_result(family, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(*family)
    plain = write_shard(tmp_path / "old", random_sequences(9, tokenizer))
    results = []
    for tokens, workers, chunk in ((1 << 20, 1, 10**6), (50, 2, 3), (700, 3, 1)):
        monkeypatch.setattr("megatron_srp.data.preprocess.shard_blocks.BLOCK_TOKENS", tokens)
        prefix = tmp_path / f"s{tokens}"
        argv = ["--workers", str(workers), "--chunk-documents", str(chunk), "--output-prefix", str(prefix)]
        main([*flags(family), "--input-shards", str(plain), *argv])
        results.append(Path(f"{prefix}_old.srp").read_bytes())
    assert len(set(results)) == 1


def test_a_document_longer_than_a_block_is_read_in_parts(tokenizer_models, tmp_path, monkeypatch):
    family = tokenizer_models["gpt2"]
    tokenizer = load_tokenizer(*family)
    sequences = [tokenizer.encode(text) for text in random_texts(3, 40)]
    plain = write_shard(tmp_path / "old", sequences, [0, 3, 37, 40])
    monkeypatch.setattr("megatron_srp.data.preprocess.shard_blocks.BLOCK_TOKENS", 500)
    main([*flags(family), "--input-shards", str(plain), "--materialize", "--output-prefix", str(tmp_path / "m")])
    strip_reflections(tmp_path / "m", tmp_path / "again")
    for suffix in ("bin", "idx"):
        assert Path(f"{tmp_path}/again_old.{suffix}").read_bytes() == Path(f"{plain}.{suffix}").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--materialize"]], ids=["sidecar", "materialize"])
def test_killed_at_random_moments(tokenizer_models, tmp_path, extra):
    family = tokenizer_models["gpt2"]
    tokenizer = load_tokenizer(*family)
    shards = [write_shard(tmp_path / name, random_sequences(i, tokenizer) * 30) for i, name in enumerate("ab")]
    argv = [*flags(family), "--input-shards", *map(str, shards), "--chunk-documents", "50", *extra]
    kill_and_resume(argv, tmp_path / "runs", kills=4, seed=1)


@settings(max_examples=200, deadline=None, suppress_health_check=[*ANY_SPEED, HealthCheck.function_scoped_fixture])
@given(st.sampled_from([8, 60, 1 << 20]), st.data())
def test_a_damaged_index_is_an_error_of_ours_or_none(tmp_path, block_tokens, data):
    """Numbers changed in an index: never another exception."""
    sequences = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9], [1], [2, 2], [3] * 20]
    plain = write_shard(tmp_path / "d", sequences, [0, 2, 2, 5, 7])
    content = bytearray(plain.with_suffix(".idx").read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[at] = data.draw(st.sampled_from([0, 1, 2, 7, 127, 128, 255]))
    plain.with_suffix(".idx").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(InputError):
        patch.setattr("megatron_srp.data.preprocess.shard_blocks.BLOCK_TOKENS", block_tokens)
        blocks = list(read_blocks(IndexedShard(plain), 0, 256))
        assert sum(len(block.ends) for block in blocks) == len(IndexedShard(plain))
        assert all((np.diff(block.documents) >= 0).all() for block in blocks)


@pytest.fixture
def metaspace(tmp_path) -> TextTokenizer:
    """A Hugging Face tokenizer of SentencePiece's kind, as Llama 2 has one."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator(random_texts(0, 60), trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] < 3]
    (tmp_path / "metaspace").mkdir()
    (tmp_path / "metaspace" / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "metaspace" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return load_tokenizer("HuggingFaceTokenizer", tmp_path / "metaspace")


def test_a_hugging_face_tokenizer_of_sentencepieces_kind(metaspace, tmp_path):
    test_token_text_is_the_tokens_own(metaspace)
    test_a_plain_shard_gets_what_the_builder_makes_of_the_text(metaspace, tmp_path, True, "text")


def test_token_text_is_the_tokens_own(any_tokenizer):
    """What the table says of tokens adds up to the text, whatever it holds."""
    texts = any_tokenizer.token_text()
    assert len(texts) == any_tokenizer.vocab_size
    for text in [*TEXTS[1:], "\x00\x7f\x80ÿ𝔘nicode 🙂\u200b\t"]:
        joined = b"".join(texts[i] for i in any_tokenizer.encode(text))
        assert joined[any_tokenizer.extra_bytes :].decode() == text
    assert texts[any_tokenizer.require_eos()] == b""
