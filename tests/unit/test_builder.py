import resource
import signal

import numpy as np
import pytest

from megatron_srp.corpus.batch import TextBatch, segment_batch
from megatron_srp.data.build_settings import BuildSettings
from megatron_srp.data.builder import Finished, ReflectionIndexedDatasetBuilder, ShardBuilder, open_output
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.manifest import find_manifest
from megatron_srp.data.shards.output import Output
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.segmentation import segment_text
from tests.conftest import KeywordGuard, random_texts

TEXTS = [
    "",
    *random_texts(21, 60),
    "They kill.",
    "It is safe. Then they kill.",
    "Unsafe bomb. And on it goes safely.",
]


def build(prefix, tokenizer, texts=TEXTS, **settings):
    settings.setdefault("guard", KeywordGuard())
    settings.setdefault("max_words", 8)
    builder = ReflectionIndexedDatasetBuilder(prefix, tokenizer, **settings)
    builder.add_documents(texts[: len(texts) // 2])
    builder.add_documents(texts[len(texts) // 2 :])
    return builder.finalize(), IndexedShard(f"{prefix}_text_document")


def expected_text(text: str, form: ReflectionFormat, eos: str, append_eod: bool) -> str:
    """The document as a person would write it, from the definitions alone."""
    out = ""
    segments = segment_text(text, 8)
    for i, s in enumerate(segments):
        label = KeywordGuard.label_of(text[s.start : s.end])
        last = i == len(segments) - 1
        out += f"{text[s.start : s.end]} {form.render(label)}"
        out += eos if form.stops(label) and not (last and append_eod) else ""
    return out + (eos if append_eod else "")


@pytest.mark.parametrize("append_eod", [True, False])
def test_documents_read_as_the_paper_writes_them(tokenizer, tmp_path, append_eod):
    manifest, shard = build(tmp_path / "c", tokenizer, append_eod=append_eod)
    documents = [text for text in TEXTS if text]
    assert len(shard) == len(documents)
    for tokens, text in zip(shard, documents, strict=True):
        expected = expected_text(text, ReflectionFormat(), "<|endoftext|>", append_eod)
        assert tokenizer.decode(tokens.tolist()) == expected
    counts = manifest["counts"]
    assert (counts["documents"], counts["empty_documents"]) == (len(documents), 1)
    assert counts["segments"] == sum(len(segment_text(text, 8)) for text in TEXTS) == sum(counts["verdicts"].values())
    assert counts["tokens"] == len(shard.tokens)
    assert counts["categories"] == {
        "PII": counts["verdicts"]["Unsafe"],
        "Unethical Acts": counts["verdicts"]["Controversial"],
        "Violent": counts["verdicts"]["Unsafe"],
    }


def test_no_doubled_end_of_text(tokenizer, tmp_path):
    _, shard = build(tmp_path / "c", tokenizer)
    eos = tokenizer.eos_id
    for tokens in shard:
        assert tokens[-1] == eos
        assert not ((tokens[1:] == eos) & (tokens[:-1] == eos)).any()


def test_plain_tokens_are_the_reference_tokenizers(any_tokenizer, tmp_path):
    _, plain = build(tmp_path / "p", any_tokenizer, guard=None)
    for tokens, text in zip(plain, [text for text in TEXTS if text], strict=True):
        assert tokens.tolist() == [*any_tokenizer.encode(text), any_tokenizer.eos_id]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("append_eod", [True, False])
def test_strip_gives_the_plain_shard(any_tokenizer, tmp_path, append_eod, special):
    form = ReflectionFormat(special_tokens=special)
    forged = [
        *TEXTS,
        "A text that says <think> Safe </think> itself. <think> Unsafe </think><|endoftext|> Really.",
    ]
    build(tmp_path / "p", any_tokenizer, forged, guard=None, append_eod=append_eod)
    build(tmp_path / "r", any_tokenizer, forged, form=form, append_eod=append_eod)
    manifest = strip_reflections(tmp_path / "r", tmp_path / "s")
    for suffix in ("bin", "idx"):
        paths = [tmp_path / f"{name}_text_document.{suffix}" for name in "ps"]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert manifest["counts"]["tokens"] == manifest["counts"]["plain_tokens"]


def test_strip_refuses_what_does_not_fit(tokenizer, tmp_path):
    build(tmp_path / "r", tokenizer)
    build(tmp_path / "p", tokenizer, guard=None)
    with pytest.raises(InputError, match="carry no reflections"):
        strip_reflections(tmp_path / "p", tmp_path / "s")
    with pytest.raises(InputError, match=r"none\.srp\.json: no such file"):
        strip_reflections(tmp_path / "none", tmp_path / "s")
    binary = tmp_path / "r_text_document.bin"
    data = np.fromfile(binary, np.uint16)
    data[200:300] = 7
    data.tofile(binary)
    with pytest.raises(InputError, match="do not hold the reflections"):
        strip_reflections(tmp_path / "r", tmp_path / "s")
    assert not list(tmp_path.glob("s_*")) and not (tmp_path / "s.srp.json").exists()


def test_special_tokens_extend_the_tokenizer_beside_the_shards(any_tokenizer, tmp_path):
    manifest, shard = build(tmp_path / "c", any_tokenizer, form=ReflectionFormat(special_tokens=True))
    assert manifest["tokenizer"]["vocab_size"] == any_tokenizer.vocab_size + 2
    assert manifest["tokenizer"]["model"].startswith(str(tmp_path / "c_tokenizer"))
    assert (shard.tokens == any_tokenizer.vocab_size).sum() == manifest["counts"]["segments"]


def test_the_sidecar_says_where_the_reflections_are(tokenizer, tmp_path):
    manifest, shard = build(tmp_path / "c", tokenizer)
    sidecar = ReflectionSidecar.load(tmp_path / "c_text_document.srp")
    assert len(sidecar) == len(shard)
    assert len(sidecar.cuts) == manifest["counts"]["segments"]
    assert sidecar.materialized
    assert sidecar.fingerprint == ReflectionSidecar.load(tmp_path / "c_text_document.srp").fingerprint
    batch = TextBatch.from_texts([text for text in TEXTS if text])
    assert np.array_equal(sidecar.offsets, segment_batch(batch, 8).offsets)


def test_the_manifest_is_found_by_its_shard(tokenizer, tmp_path):
    manifest, _ = build(tmp_path / "c", tokenizer)
    assert find_manifest(tmp_path / "c_text_document") == manifest
    assert find_manifest(tmp_path / "c_other_document") is None


def test_finished_output_is_not_replaced_unasked(tokenizer, tmp_path):
    build(tmp_path / "c", tokenizer)
    before = (tmp_path / "c_text_document.bin").read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        build(tmp_path / "c", tokenizer, ["other text"])
    assert (tmp_path / "c_text_document.bin").read_bytes() == before
    build(tmp_path / "c", tokenizer, ["other text"], overwrite=True)
    assert (tmp_path / "c_text_document.bin").read_bytes() != before


def test_one_run_at_a_time_and_one_kind_of_settings(tokenizer, tmp_path):
    first = ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=None)
    with pytest.raises(UsageError, match="another run is writing"):
        ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=None)
    first.add_documents(["a text"])
    first.commit(1)
    first.close()
    with pytest.raises(UsageError, match="append_eod was true, now false"):
        ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=None, append_eod=False)


@pytest.mark.parametrize("size", [0, 1000, 2500])
def test_a_full_disk_loses_nothing_that_was_committed(tokenizer, tmp_path, size):
    """A limit on the size of files stands in for the disk; the write that meets it takes a part or fails."""
    build(tmp_path / "whole", tokenizer)
    builder = ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=KeywordGuard(), max_words=8)
    builder.add_documents(TEXTS[:10])
    builder.commit(10)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails with EFBIG
    reached = (tmp_path / "c.srp-work" / "c_text_document.bin").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (reached + size, unlimited[1]))
    try:
        with pytest.raises(OutputError, match="rerun the same command") as error:
            builder.add_documents(TEXTS[10:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.exit_code == 1
    builder.close()
    again = ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=KeywordGuard(), max_words=8)
    again.add_documents(TEXTS[again.position :])
    again.finalize()
    for suffix in ("bin", "idx", "srp"):
        files = [tmp_path / f"{name}_text_document.{suffix}" for name in ("c", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_what_was_not_committed_is_cut_off_on_resume(tokenizer, tmp_path):
    build(tmp_path / "whole", tokenizer)
    builder = ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=KeywordGuard(), max_words=8)
    builder.add_documents(TEXTS[:20])
    builder.commit(20)
    builder.add_documents(TEXTS[20:30])
    builder.close()
    again = ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=KeywordGuard(), max_words=8)
    assert again.position == 20
    again.add_documents(TEXTS[20:])
    again.finalize()
    for suffix in ("bin", "idx", "srp"):
        files = [tmp_path / f"{name}_text_document.{suffix}" for name in ("c", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()


def stop_as_it_finishes(prefix, tokenizer, monkeypatch):
    """Leave an output of which everything is written, and nothing has its final name."""

    def stop(output):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Output, "_complete", stop)
        builder = ReflectionIndexedDatasetBuilder(prefix, tokenizer, guard=KeywordGuard())
        builder.add_documents(TEXTS)
        with pytest.raises(KeyboardInterrupt):
            builder.finalize()
        builder.close()


def test_a_builder_is_never_one_that_has_nothing_to_build(tokenizer, tmp_path, monkeypatch):
    stop_as_it_finishes(tmp_path / "c", tokenizer, monkeypatch)
    with pytest.raises(UsageError, match=r"c had been written when an earlier run stopped, and is finished now"):
        ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=KeywordGuard())
    assert find_manifest(tmp_path / "c_text_document")


def test_open_output_says_whether_anything_is_left_to_do(tokenizer, tmp_path, monkeypatch):
    stop_as_it_finishes(tmp_path / "c", tokenizer, monkeypatch)
    plan = BuildSettings(tmp_path / "c", tokenizer, KeywordGuard())
    completed = open_output(plan)
    assert completed == Finished(find_manifest(tmp_path / "c_text_document"))
    assert open_output(plan, keep_finished=True) == Finished(completed.manifest, kept=True)
    with pytest.raises(UsageError, match="exists already"):
        open_output(plan)
    again = open_output(plan, overwrite=True, keep_finished=True)
    assert isinstance(again, ShardBuilder)
    again.close()
