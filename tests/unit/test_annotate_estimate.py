"""`srp annotate --estimate`: segments, share settled and hours, without a store."""

import pytest

from megatron_srp.annotation.cascade.bound import Target
from megatron_srp.annotation.corpus_job.estimate import estimate, sample_beginnings
from megatron_srp.annotation.guards.cascade import CascadeGuard
from megatron_srp.cli.annotate import main as annotate
from megatron_srp.corpus.patterns import expand_inputs
from megatron_srp.errors import InputError, UsageError
from tests.helpers.corpus_files import write
from tests.unit.test_cascade import Back, Suspicion

TEXTS = ["They kill."] * 100 + ["A quiet river."] * 300


def sample(tmp_path, texts=TEXTS, size=1000):
    return sample_beginnings(expand_inputs([str(write(tmp_path / "a.jsonl", texts))]), "text", 10, size)


def test_a_cascades_share_and_hours_by_the_given_rate(tmp_path):
    corpus = sample(tmp_path)
    back = Back()
    found = estimate(CascadeGuard(Suspicion(), back, Target(), 0.5, 0.1), corpus, rate=2.0)
    assert corpus.segments == len(corpus.texts) == 400 and not back.asked
    assert found.asked == pytest.approx(0.25 + 0.75 * 0.1)
    lines = found.describe()
    assert f"cost: {400 * 0.325 / 2 / 3600:.2f} hours on one such device" in lines
    assert "settled without the last guard: 67.5% of 400 segments" in lines
    inner = CascadeGuard(Suspicion("nothing"), back, Target(), 0.5, 0.0)
    assert estimate(CascadeGuard(Suspicion(), inner, Target(), 0.5, 0.0), corpus, rate=2.0).asked == 0


def test_the_rate_is_measured_on_what_the_back_is_asked(tmp_path):
    back = Back()
    found = estimate(CascadeGuard(Suspicion(), back, Target(), 0.5, 0.0), sample(tmp_path))
    assert found.rate > 0 and not found.given and set(back.asked) == {"They kill."}
    with pytest.raises(InputError, match="the front settles all but 0 of the sample"):
        estimate(CascadeGuard(Suspicion("x"), back, Target(), 0.5, 0.0), sample(tmp_path))


def test_a_large_file_is_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 250_000)
    corpus = sample(tmp_path, ["A quiet river. " * 20] * 25_000, size=50)  # 8 MB, of which half is read
    assert len(corpus.texts) == 50
    assert corpus.segments == pytest.approx(25_000 * 7, rel=0.3)  # three sentences are nine words


class Reader(Back):
    """Wants two words before a segment, and keeps what it is shown."""

    context_words = 2

    def results_in_context(self, texts, contexts):
        self.asked.extend(zip(contexts, texts.to_pylist(), strict=True))
        return self.results_array(texts)


def test_the_words_before_a_segment_are_shown_in_measuring(tmp_path):
    files = expand_inputs([str(write(tmp_path / "a.jsonl", ["One two three. Four five six."] * 20))])
    corpus, guard = sample_beginnings(files, "text", 3, 30, context_words=2), Reader()
    assert estimate(guard, corpus).rate > 0
    pairs = [one for one in guard.asked if isinstance(one, tuple)]
    assert len(pairs) == 30 and set(pairs) == {("", "One two three."), ("two three.", " Four five six.")}


def test_the_command(tmp_path, capsys):
    path = str(write(tmp_path / "a.jsonl", TEXTS))
    assert annotate(["--input", path, "--guard", "heuristic", "--estimate", "100", "--rate", "7.2"]) == 0
    assert "rate: 7.2 segments/s (as given)\ncost: 0.02 hours" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--rate 3: pass segments a second"):
        annotate(["--input", path, "--guard", "heuristic", "--store", "s", "--rate", "3"])
    with pytest.raises(UsageError, match="--store: pass the folder"):
        annotate(["--input", path, "--guard", "heuristic"])
