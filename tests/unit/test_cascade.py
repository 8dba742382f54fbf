"""Cascades: who settles what, what a job keeps when it is killed or its threshold changes, and what an audit catches."""

import json
import random
import signal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from megatron_srp.annotation import Guard, GuardOptions, GuardResult, load_guard
from megatron_srp.annotation.cascade.bound import Choice, Tally, Target
from megatron_srp.annotation.cascade.sample import SegmentSample, sample_segments
from megatron_srp.annotation.cascade.spec import CascadeSpec, write_calibration
from megatron_srp.annotation.corpus_job.annotator import Annotator
from megatron_srp.annotation.fronts.front_file import Front, save_front
from megatron_srp.annotation.guards.cascade import CascadeGuard
from megatron_srp.annotation.store.browse import find_corpora
from megatron_srp.annotation.store.edit import set_verdict
from megatron_srp.annotation.store.store import AnnotationStore, read_part
from megatron_srp.cli.calibrate import main as calibrate
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.errors import GuardError, InputError, UsageError
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from tests.conftest import random_texts
from tests.helpers.corpus_files import write
from tests.helpers.killing import Jobs
from tests.helpers.moody_guard import contents

UNSAFE = SafetyLabel(Verdict.UNSAFE, ("Violent",))


class Back(Guard):
    """Unsafe is what says kill; counts the texts it is asked about."""

    name, revision = "back", "1"

    def __init__(self) -> None:
        self.asked: list = []

    def classify(self, texts):
        self.asked += texts
        return [UNSAFE if "kill" in text else SAFE for text in texts]


class Suspicion(Back):
    """Probabilities of harm: high for `suspicious`, otherwise from 0 to 0.2 by the text's length."""

    name = "front"

    def __init__(self, suspicious: str = "kill") -> None:
        super().__init__()
        self.suspicious = suspicious

    def harm_probabilities(self, texts):
        return np.array([0.9 if self.suspicious in t else len(t) % 20 / 100 for t in texts], np.float32)


def make(threshold=0.5, audit=0.0, suspicious="kill", target=None) -> Any:
    return CascadeGuard(Suspicion(suspicious), Back(), target or Target(0.05), threshold, audit, "my.yaml")


def annotate(folder, files, guard, workers=1, chunk=20) -> Any:
    store = AnnotationStore.create(folder, {**guard.settings, "max_words": 10})
    job = Annotator(InputFiles(files), store, guard, 10, chunk_documents=chunk, workers=workers)
    job.run()
    return job


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 7000)
    return [write(tmp_path / f"{i}.jsonl", random_texts(40 + i, 90, most_words=60)) for i in range(2)]


def test_the_front_settles_below_the_threshold_and_the_back_judges_the_rest():
    guard = make(threshold=0.1)
    texts = ["x" * 5, "x" * 15, "kill", ""]
    results = guard.results(texts)
    assert [one.stage for one in results] == ["front", "back", "back", "front"]
    assert guard.back.asked == ["x" * 15, "kill"]
    assert [str(one.label.verdict) for one in results] == ["Safe", "Safe", "Unsafe", "Safe"]
    assert [one.harm for one in results] == pytest.approx([0.05, 0.15, 0.9, 0.0])
    assert guard.classify(texts) == guard.classify_array(pa.array(texts)) == [one.label for one in results]
    assert guard.results([]) == [] and guard.classify([]) == []


def test_the_audits_choice_depends_on_the_text_alone():
    texts = [f"text number {i}" for i in range(4000)]
    whole = [one.stage for one in make(audit=0.1).results(texts)]
    again = [one.stage for text in texts[::-1] for one in make(audit=0.1).results([text])][::-1]
    assert whole == again and set(whole) == {"front", "audit"}
    assert 320 < whole.count("audit") < 480
    other = CascadeGuard(Suspicion("bomb"), make(audit=0.1), Target(), 0.5, 0.1)  # nested: drawn independently
    other.front.constructor_options = {"words": "bomb"}
    other = CascadeGuard(other.front, make(audit=0.1), Target(), 0.5, 0.1)
    nested = [one.stage for one in other.results(texts)]
    assert 20 < nested.count("audit>audit") < 70 and nested.count("audit>front") > 250


def test_a_text_that_the_back_fails_on_has_no_verdict():
    class Failing(Back):
        def results(self, texts):
            return [GuardResult(failure="gone") for _ in texts]

    guard = CascadeGuard(Suspicion(), Failing(), Target(), 0.5, 0.0)
    first, second = guard.results(["kill", "x"])
    assert (first.failure, first.stage) == ("gone", "back") and not second.failure
    with pytest.raises(InputError, match="gone"):
        guard.classify(["kill"])


def test_a_front_without_probabilities_is_refused():
    with pytest.raises(GuardError, match="its front, back, has no probabilities"):
        CascadeGuard(Back(), Back(), Target(), 0.5, 0.0).classify(["x"])


def test_the_store_says_who_settled_each_segment(files, tmp_path):
    guard = make(threshold=0.1, audit=0.2)
    job = annotate(tmp_path / "store", files, guard)
    counts = job.settled_counts()
    assert sum(counts.values()) == job.progress.segments and counts["back Unsafe"] > 50
    assert {name.split()[0] for name in counts} == {"front", "audit", "back"}
    part = read_part(next(iter((tmp_path / "store").rglob("*.parquet"))))
    assert part.settling.counts(part.codes, part.labels).total() == len(part.codes)
    assert (part.settling.harms[part.settling.stages == "front"] < 0.1).all()
    annotate(tmp_path / "threads", files, make(threshold=0.1, audit=0.2), workers=3)
    assert contents(tmp_path / "store") == contents(tmp_path / "threads")
    again = make(threshold=0.1, audit=0.2)
    assert annotate(tmp_path / "store", files, again).settled_counts() == counts
    assert Tally.of(counts, again.target) == again.watch.tally and not again.back.asked


def test_a_lower_threshold_gives_the_store_that_it_would_have_given_from_the_start(files, tmp_path):
    annotate(tmp_path / "fresh", files, make(threshold=0.05, audit=0.2))
    annotate(tmp_path / "store", files[:1], make(threshold=0.15, audit=0.2))
    guard = make(threshold=0.05, audit=0.2)
    annotate(tmp_path / "store", files, guard)
    assert contents(tmp_path / "store") == contents(tmp_path / "fresh")
    assert AnnotationStore(tmp_path / "store").settings == AnnotationStore(tmp_path / "fresh").settings
    with pytest.raises(
        UsageError, match=r"threshold 0\.05 between front and back, and now it is 0\.15; it can only be"
    ):
        annotate(tmp_path / "store", files, make(threshold=0.15, audit=0.2))


def test_a_store_of_another_front_is_refused(files, tmp_path):
    annotate(tmp_path / "store", files, make())
    guard = make()
    guard.front.revision = "2"
    guard.revision = "2+1"
    with pytest.raises(UsageError, match="was made with other settings: front was"):
        annotate(tmp_path / "store", files, guard)


def test_a_planted_drift_is_caught_and_the_job_goes_on_with_a_new_threshold(tmp_path):
    """The first half of the corpus is of the kind that the front knows; in the second half, harm has another word."""
    quiet = [f"A quiet river number {i}." for i in range(2000)]
    known = [f"They bomb the house number {i} and kill." for i in range(200)]
    unknown = [f"They strike number {i} and kill." for i in range(2000)]
    files = [write(tmp_path / "a.jsonl", quiet + known), write(tmp_path / "b.jsonl", quiet + unknown)]
    old = lambda: make(audit=0.1, suspicious="bomb")  # noqa: E731
    done = annotate(tmp_path / "first", files[:1], old(), chunk=400)
    assert done.guard.watch.tally.missed == 0
    with pytest.raises(
        GuardError, match=r"cascade my.yaml: at least .* of the harmful segments of this corpus are missed"
    ) as e:
        annotate(tmp_path / "store", files, old(), chunk=400)
    assert "finished parts are kept: calibrate again" in str(e.value)
    kept = contents(tmp_path / "store")
    assert set(kept) >= set(contents(tmp_path / "first"))
    annotate(tmp_path / "store", files, make(threshold=0.0, audit=0.1, suspicious="bomb"), chunk=400)
    store = AnnotationStore(tmp_path / "store")
    parts = [read_part(path) for path in store.folder.rglob("*.parquet")]
    assert sum(str(part.labels[code].verdict) == "Unsafe" for part in parts for code in part.codes) == 2200
    assert {stage for part in parts for stage in part.settling.stages} == {"back"}


def test_a_corpus_within_its_target_seldom_raises_an_alarm():
    """Audits of 200 corpora whose misses are exactly the target's, looked at on the way and at the end."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(200):
        watch = make(target=Target(miss=0.05)).watch
        try:
            for _ in range(40):  # batches: 100 audited of 20,000 settled, of which 1% are harmful; 3,800 found
                missed = int(rng.binomial(100, 0.01))
                counts = {"front Safe": 20_000, "audit Safe": 100 - missed, "audit Unsafe": missed}
                watch.add({**counts, "back Unsafe": 3_800})
            watch.check_at_end()
        except GuardError:
            alarms += 1
    assert alarms <= 18  # 10 are expected at most; 18 is the 99th percentile of Binomial(200, 0.05)


def test_a_verdict_changed_by_hand_is_no_longer_the_cascades(files, tmp_path):
    annotate(tmp_path / "store", files[:1], make(threshold=0.15))
    (corpus,) = find_corpora(AnnotationStore(tmp_path / "store"), files[:1])
    set_verdict(corpus, 0, 0, UNSAFE, "I know")
    annotate(tmp_path / "store", files[:1], make(threshold=0.0))
    part = read_part(min((tmp_path / "store").rglob("*.parquet")))
    assert part.settling.stages[0] == "hand" and part.labels[part.codes[0]] == UNSAFE
    assert set(part.settling.stages[1:]) == {"back"}


def make_files(folder, **fields):
    weights = np.random.default_rng(0).integers(-127, 128, 256).astype(np.int8)
    save_front(Front(weights, 0.0, 0.002), folder / "front.safetensors")
    tree = {"front": {"guard": f"front:{folder}/front.safetensors"}, "back": {"guard": "heuristic"}}
    (folder / "my.yaml").write_text(json.dumps(tree | {"target": {"miss": 0.3}} | fields))
    return folder / "my.yaml"


def set_threshold(path, threshold):
    spec = CascadeSpec.load(path)
    write_calibration(spec, Choice(threshold, 100, 10, 0, 50, 0.2), *spec.load_guards(load_guard), 10)


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path):
    inputs = [write(tmp_path / f"{i}.jsonl", random_texts(70 + i, 300, most_words=150)) for i in range(2)]
    path = make_files(tmp_path, audit=0.2, target={"miss": 0.9})
    set_threshold(path, 0.5)
    flags = ["--input", *map(str, inputs), "--guard", f"cascade:{path}", "--max-words", "10", "--chunk-documents", "40"]
    rng = random.Random(1)
    kills = done = 0
    with Jobs("megatron_srp.cli.annotate") as jobs:
        assert jobs.run([*flags, "--store", str(tmp_path / "whole")])[0] == 0
        expected = contents(tmp_path / "whole")
        while kills < 12 or not done:
            store = tmp_path / f"killed{done}"
            code, _ = jobs.run(
                [*flags, "--workers", "2", "--store", str(store)], rng.uniform(0, 0.15) if kills < 12 else 60
            )
            kills += code == -signal.SIGKILL
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                assert contents(store) == expected
                done += 1


def test_calibrate_writes_the_threshold_that_the_guard_then_has(tmp_path, capsys):
    corpus = write(tmp_path / "c.jsonl", random_texts(3, 400, most_words=60))
    path = make_files(tmp_path, target={"miss": 0.9, "of": "harmful"})
    with pytest.raises(UsageError, match=r"my.yaml is not calibrated \(no my.calibration.json\); run `srp calibrate"):
        load_guard(f"cascade:{path}")
    calibrate(["--input", str(corpus), "--guard", f"cascade:{path}", "--max-words", "10", "--sample", "2000"])
    out = capsys.readouterr().out
    assert "settled by the front:" in out and "sample: 1," in out
    found = json.loads((tmp_path / "my.calibration.json").read_text())
    assert found["sample"]["missed"] > 0 and found["bound"] <= 0.9
    guard: Any = load_guard(f"cascade:{path}")
    assert guard.threshold == pytest.approx(found["threshold"])


def test_what_a_calibration_was_not_made_for_is_refused(tmp_path):
    path = make_files(tmp_path)
    set_threshold(path, 0.4)
    guard: Any = load_guard(f"cascade:{path}")
    assert guard.threshold == pytest.approx(0.4)
    save_front(Front(np.ones(256, np.int8), 0.0, 0.1), tmp_path / "front.safetensors")
    with pytest.raises(UsageError, match="was calibrated with another front"):
        load_guard(f"cascade:{path}")
    make_files(tmp_path, target={"miss": 0.2})
    with pytest.raises(UsageError, match="was calibrated with another target"):
        load_guard(f"cascade:{path}")
    (tmp_path / "my.calibration.json").write_text("{}")
    with pytest.raises(InputError, match="not a calibration, or damaged"):
        load_guard(f"cascade:{path}")
    with pytest.raises(UsageError, match="--guard-threshold belongs to a guard in the file"):
        load_guard(f"cascade:{path}", GuardOptions(threshold=0.3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"back": {"guard": None}}, "back is {'guard': None}; write `back: {guard: NAME}`"),
        ({"bakc": 1}, "a cascade has no field 'bakc'.*did you mean 'back'"),
        ({"audit": 2}, "audit is 2; give a share from 0 to 1"),
        ({"target": {"miss": 0}}, "target is {'miss': 0}; write"),
        ({"target": {"misses": 0.1}}, "target is {'misses': 0.1}; write"),
        (
            {"front": {"guard": "heuristic", "treshold": 1}},
            "heuristic has no option 'treshold'.*did you mean 'threshold'",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        CascadeSpec.load(make_files(tmp_path, **change))


def test_a_sample_is_uniform_and_does_not_depend_on_batches(tmp_path):
    counts = np.zeros(100)
    for seed in range(400):
        sample = SegmentSample(10, seed)
        for at in range(0, 100, 7):
            sample.add(pa.array([str(i) for i in range(at, min(at + 7, 100))], pa.large_string()))
        picked = [int(text) for text in sample.texts.to_pylist()]
        assert picked == sorted(picked) and len(set(picked)) == 10
        counts[picked] += 1
    assert counts.sum() == 4000 and ((counts - 40) ** 2 / 36).sum() < 140  # chi-squared, 99 degrees of freedom, 99.6%
    corpus = write(tmp_path / "c.jsonl", random_texts(3, 30, most_words=60))
    few = sample_segments([corpus], "text", 10, 10**6)
    assert few.seen == len(few.texts) > 30
