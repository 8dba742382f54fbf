"""The report on a reflected shard: its numbers against a plain count, and pages of hostile text."""

import json
import re
import shutil
import tracemalloc
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from megatron_srp.annotation.base import Guard
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.reflection_table import Entry
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.errors import InputError, UsageError
from megatron_srp.reports import shard_statistics
from megatron_srp.reports.document_sample import DocumentSample, LabelBits
from megatron_srp.reports.document_texts import SHOWN_TOKENS, DocumentReader, visible
from megatron_srp.reports.histogram import Histogram
from megatron_srp.reports.shard_report import inspect_shard, open_shard, write_shard_report
from megatron_srp.reports.shard_statistics import measure
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.commands import srp

TEXTS = random_texts(91, 80)


def build(prefix, tokenizer, texts=TEXTS, **settings: Any):
    given: dict[str, Any] = {"guard": KeywordGuard(), "max_words": 8} | settings
    builder = ReflectionIndexedDatasetBuilder(prefix, tokenizer, **given)
    builder.add_documents(texts)
    return builder.finalize()


def count_plainly(shard: IndexedShard, sidecar: ReflectionSidecar) -> dict:
    """The numbers, a document at a time."""
    verdicts, categories, segments, documents, stretches = Counter(), Counter(), [], [], []
    for d in range(len(shard)):
        own = slice(sidecar.offsets[d], sidecar.offsets[d + 1])
        entries = [sidecar.table.entries[i] for i in sidecar.entries[own]]
        lengths = np.diff([0, *sidecar.cuts[own]]).tolist()
        verdicts.update(str(entry.label.verdict) for entry in entries)
        categories.update(category for entry in entries for category in entry.label.categories)
        segments += lengths
        documents.append(len(shard[d]) - sum(len(entry.ids) for entry in entries))
        run: list[int] = []
        for i, (entry, length) in enumerate(zip([*entries, None], [*lengths, 0], strict=True)):
            if entry and entry.label.verdict is not Verdict.SAFE:
                run.append(length)
            elif run:
                stretches.append((len(run), sum(run), d, i - len(run)))
                run = []
    longest = sorted(stretches, key=lambda s: (-s[0], -s[1], s[2], s[3]))[:10]
    return {
        "verdicts": dict(sorted(verdicts.items())),
        "categories": dict(sorted(categories.items())),
        "segments": segments,
        "documents": documents,
        "longest": longest,
    }


@pytest.mark.parametrize("blocks", [(1 << 18, 1 << 21), (7, 50), (3, 1)])
def test_the_numbers_are_those_of_a_plain_count(tokenizer, tmp_path, monkeypatch, blocks):
    monkeypatch.setattr(shard_statistics, "_BLOCK_DOCUMENTS", blocks[0])
    monkeypatch.setattr(shard_statistics, "_BLOCK_SEGMENTS", blocks[1])
    manifest = build(tmp_path / "c", tokenizer)
    inspection = open_shard(tmp_path / "c")
    _, content = inspect_shard(inspection, documents=10, seed=0)
    expected = count_plainly(inspection.shard, inspection.sidecar)
    assert content["verdicts"] == expected["verdicts"] == manifest["counts"]["verdicts"]
    assert content["categories"] == expected["categories"]
    assert [
        tuple(s[k] for k in ("segments", "tokens", "document", "first")) for s in content["longest_unsafe"]
    ] == expected["longest"]
    assert content["plain_tokens"] == sum(expected["documents"]) == manifest["counts"]["plain_tokens"]
    assert content["plain_tokens"] + content["added_tokens"] == len(inspection.shard.tokens)
    for name in ("segment", "document"):
        numbers = content[f"{name}_tokens"]
        values = np.array(expected[f"{name}s"])
        assert (numbers["number"], numbers["largest"]) == (len(values), values.max())
        assert numbers["mean"] == round(values.mean(), 3)
        assert numbers["quantiles"]["p75"] == np.quantile(values, 0.75, method="inverted_cdf")


def test_memory_does_not_grow_with_the_shard(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_statistics, "_BLOCK_DOCUMENTS", 1000)
    build(tmp_path / "c", tokenizer)
    small = open_shard(tmp_path / "c")
    peaks = []
    for times in (100, 1000):
        counts = np.tile(np.diff(small.sidecar.offsets), times)
        cuts, entries = np.tile(small.sidecar.cuts, times), np.tile(small.sidecar.entries, times)
        sidecar = replace(small.sidecar, offsets=np.concatenate([[0], np.cumsum(counts)]), cuts=cuts, entries=entries)
        lengths = np.tile(small.shard.lengths, times)
        tracemalloc.start()
        measure(lengths, sidecar, 10, 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_the_same_numbers_and_texts_of_a_plain_shard_and_its_sidecar(tokenizer, tmp_path):
    build(tmp_path / "c", tokenizer)
    strip_reflections(tmp_path / "c", tmp_path / "p")
    sidecar = ReflectionSidecar.load(tmp_path / "c_text_document.srp")
    info = {
        "shard": {"name": "p_text_document"},
        "training_tokenizer": json.loads((tmp_path / "c.srp.json").read_text())["tokenizer"],
    }
    plain = ReflectionSidecar(sidecar.offsets, sidecar.cuts, sidecar.entries, sidecar.table, False, info)
    plain.save(tmp_path / "s.srp")
    contents = [inspect_shard(open_shard(tmp_path / name), 20, 0)[1] for name in ("c", "s")]
    shutil.move(tmp_path / "s.srp", tmp_path / "p_text_document.srp")
    contents.append(inspect_shard(open_shard(tmp_path / "p_text_document"), 20, 0)[1])
    for content in contents:
        del content["shard"], content["materialized"]
    assert contents[0] == contents[1] == contents[2]
    assert contents[0]["sample"]


def test_texts_are_those_of_the_documents(tokenizer, tmp_path):
    build(tmp_path / "c", tokenizer)
    _, content = inspect_shard(open_shard(tmp_path / "c"), 20, 0)
    assert len(content["sample"]) == 20
    for document in content["sample"]:
        assert "".join(piece["text"] for piece in document["pieces"]) + document["tail"] == visible(
            TEXTS[document["number"]]
        )
        for piece in document["pieces"]:
            label = KeywordGuard.label_of(piece["text"])
            assert piece["verdict"] == label.verdict and f"<think> {label.verdict}" in piece["reflection"]
    for stretch in content["longest_unsafe"]:
        assert len(stretch["pieces"]) == stretch["segments"]
        assert all(piece["verdict"] != "Safe" for piece in stretch["pieces"])


class Rare(Guard):
    """One segment in the whole corpus has a category of its own."""

    name, revision = "rare", "1"

    def classify(self, texts):
        return [SafetyLabel(Verdict.UNSAFE, ("PII",)) if "needle" in text else SAFE for text in texts]


def test_rare_verdicts_are_in_the_sample_and_the_seed_decides_it(tokenizer, tmp_path):
    texts = [*random_texts(5, 300, most_words=20), "a needle in the hay", *random_texts(6, 300, most_words=20)]
    build(tmp_path / "c", tokenizer, texts, guard=Rare())
    samples = []
    for seed in (0, 0, 1):
        _, content = inspect_shard(open_shard(tmp_path / "c"), 6, seed)
        samples.append([document["number"] for document in content["sample"]])
        assert 300 in samples[-1] and len(samples[-1]) == 6
    assert samples[0] == samples[1] != samples[2]
    assert content["documents_with"] == {"only Safe": 600, "Safe": 600, "Unsafe": 1, "PII": 1}


def test_the_draw_does_not_depend_on_the_blocks():
    rng = np.random.default_rng(0)
    entries = [
        Entry(label, False, (1,))
        for label in (SAFE, SafetyLabel(Verdict.UNSAFE, ("a",)), SafetyLabel(Verdict.UNSAFE, ("b",)))
    ]
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, 500))])
    numbers = rng.choice(3, offsets[-1], p=[0.9, 0.07, 0.03]).astype(np.uint16)
    draws = []
    for step in (500, 1, 37):
        sample = DocumentSample(LabelBits(entries), 12, seed=3)
        for begin in range(0, 500, step):
            own = offsets[begin : begin + step + 1]
            sample.add(begin, own - own[0], numbers[own[0] : own[-1]])
        draws.append((sample.draw(), sample.documents_with()))
    assert draws[0] == draws[1] == draws[2]
    assert len(draws[0][0]) == 12


def test_many_categories_share_a_bit():
    labels = [SafetyLabel(Verdict.UNSAFE, (f"c{i:03}",)) for i in range(200)]
    bits = LabelBits([Entry(label, False, (1,)) for label in labels])
    assert len(bits.names) == 63 and bits.names[-1] == "other categories"
    assert bits.of_entry[-1] == bits.of_entry[100] == np.uint64((1 << 62) | (1 << 2))


def test_histograms_beyond_a_million():
    histogram = Histogram()
    for values in ([3, 5_000_000], [4], [], [2_000_000, 9]):
        histogram.add(np.array(values, np.int64))
    assert histogram.to_json()["quantiles"]["p50"] == 9
    assert (histogram.number, histogram.largest, histogram.total) == (5, 5_000_000, 7_000_016)
    assert histogram.bins(np.array([0, 4, 10, 6_000_000])).tolist() == [1, 2, 2]


class Page(HTMLParser):
    """Every tag of a page, the text of its documents, and whether any of it would leave the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs


HOSTILE = [
    "<script>alert(1)</script></p></article></main><img src=x onerror=alert(1)> kill it.",
    "nul \0 and bell \a and delete \x7f, kill",
    "\u202ekcatta\u202c and \u2066isolate\u2069 and \ufeff mark, bomb",
    "</script><script>parent.x = 1</script><!-- <![CDATA[ kill",
    "x" * 1_000_000,
    "safe words here. " * 5000 + "then they kill. " + "more safe words. " * 5000,
]


class Hostile(KeywordGuard):
    def classify(self, texts):
        labels = super().classify(texts)
        return [
            SafetyLabel(x.verdict, ("a\"b'c&amp;$x^", "日本")) if x.verdict is Verdict.UNSAFE else x for x in labels
        ]


def test_hostile_text_is_escaped_and_truncated(tokenizer, tmp_path):
    name = "a<b>&'\"c"
    build(tmp_path / name, tokenizer, HOSTILE, guard=Hostile())
    inspection = open_shard(tmp_path / name)
    statistics, content = inspect_shard(inspection, 10, 0)
    html = write_shard_report(tmp_path / "r.html", inspection, statistics, content).read_text(encoding="utf-8")
    page = Page(html)
    assert (page.tags["script"], page.tags["img"], page.tags["article"]) == (
        1,
        5,
        len(HOSTILE) + len(content["longest_unsafe"]),
    )
    assert not any(attribute.startswith("on") for attribute, _ in page.attributes)
    assert all(value.startswith("data:image/png;base64,") for attribute, value in page.attributes if attribute == "src")
    assert not re.search(r"https?:|url\(|@import", html)
    assert not set(html) & {"\0", "\a", "\x7f", "\u202e", "\u2066", "\ufeff"}
    for shown in ("␀", "␇", "␡", "⟨U+202E⟩", "⟨U+2066⟩", "&lt;script&gt;alert(1)"):
        assert shown in html
    assert len(html) < 2_000_000 and "more tokens are not shown" in html
    long = content["sample"][5]
    assert long["before"] > 0 and any(piece["verdict"] == "Unsafe" for piece in long["pieces"])
    categories = [json.loads(value) for attribute, value in page.attributes if attribute == "data-categories"]
    assert ["a\"b'c&amp;$x^", "日本"] in categories


def test_a_long_segment_is_cut_with_a_note(tokenizer, tmp_path):
    build(tmp_path / "c", tokenizer, ["é" * 50_000], max_words=100_000)
    inspection = open_shard(tmp_path / "c")
    document = DocumentReader(inspection.shard, inspection.sidecar, tokenizer.decode, tokenizer.eos_id).read(0)
    assert sum(len(tokenizer.encode(piece.text)) for piece in document.pieces) <= SHOWN_TOKENS + len(document.pieces)
    assert document.after or document.pieces[-1].left_out


def test_without_its_tokenizer_there_are_numbers_and_no_texts(tokenizer, tokenizer_models, tmp_path):
    build(tmp_path / "c", tokenizer)
    manifest = json.loads((tmp_path / "c.srp.json").read_text())
    (tmp_path / "c.srp.json").write_text(
        json.dumps(manifest | {"tokenizer": manifest["tokenizer"] | {"model": "/no/such/place"}})
    )
    inspection = open_shard(tmp_path / "c")
    statistics, content = inspect_shard(inspection, 10, 0)
    html = write_shard_report(tmp_path / "r.html", inspection, statistics, content).read_text()
    assert content["sample"] == [] and content["segments"] and "No texts are shown" in html and "/no/such/place" in html
    assert open_shard(tmp_path / "c", tokenizer_model=str(tokenizer_models["gpt2"][1])).tokenizer
    assert (
        "is not the tokenizer"
        in open_shard(tmp_path / "c", tokenizer_model=str(tokenizer_models["smollm2"][1])).no_texts
    )


def test_what_cannot_be_inspected_is_refused(tokenizer, tmp_path):
    build(tmp_path / "p", tokenizer, guard=None)
    build(tmp_path / "two", tokenizer, TEXTS[:3], keys=("text", "other"))
    build(tmp_path / "c", tokenizer, TEXTS[:4])
    with pytest.raises(InputError, match="carry no reflections"):
        open_shard(tmp_path / "p")
    with pytest.raises(
        UsageError, match=r"names 2 shards; pass one of them: .*two_text_document, .*two_other_document"
    ):
        open_shard(tmp_path / "two")
    with pytest.raises(InputError, match=r"none\.srp: no such file"):
        open_shard(tmp_path / "none")
    with pytest.raises(InputError, match="do not belong together"):
        open_shard(tmp_path / "c", plain=tmp_path / "p_text_document")
    (tmp_path / "c_text_document.bin").write_bytes(bytes((tmp_path / "c_text_document.bin").stat().st_size))
    with pytest.raises(InputError, match="do not hold the reflections"):
        inspect_shard(open_shard(tmp_path / "c"), 4, 0)


def test_the_tool(tokenizer, tmp_path):
    def run(*argv):
        return srp("inspect", *argv)

    build(tmp_path / "c", tokenizer)
    done = run(tmp_path / "c", "--json", "--documents", "3")
    assert done.returncode == 0 and len(json.loads(done.stdout)["sample"]) == 3
    assert not list(tmp_path.glob("*.html"))
    done = run(tmp_path / "c_text_document.srp")
    assert f"\nwrote {tmp_path / 'c_text_document.report.html'}\nnext: " in done.stdout and not done.stderr
    done = run(tmp_path / "none")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
