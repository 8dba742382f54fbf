from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_srp.annotation import Guard, GuardOptions, GuardResult, load_guard
from megatron_srp.annotation.corpus_job.annotator import Annotator
from megatron_srp.annotation.guards.ensemble import EnsembleGuard
from megatron_srp.annotation.store.store import AnnotationStore, read_part
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.errors import UsageError
from megatron_srp.schema import SafetyLabel, Verdict
from tests.conftest import random_texts

S, C, U, FAILED = "Safe", "Controversial", "Unsafe", ""


class Member(Guard):
    revision = "1"

    def __init__(self, word: str = "", verdict: str = U, score: float = 0.9):
        self.name, self.word, self.verdict, self.score = f"says-{word}", word, verdict, score

    def classify(self, texts):
        raise NotImplementedError

    def results(self, texts):
        label = SafetyLabel(Verdict(self.verdict), (self.word,)) if self.verdict else None
        found = GuardResult(label, self.score) if label else GuardResult(failure="gone")
        return [found if self.word in text else GuardResult(score=0.6) for text in texts]


def vote(rule: str, *verdicts: str) -> GuardResult:
    members = {str(i): Member("x", verdict, 0.1 * i) for i, verdict in enumerate(verdicts)}
    return EnsembleGuard(members, rule).results(["x"])[0]


@pytest.mark.parametrize(
    ("rule", "verdicts", "expected"),
    [
        ("any-unsafe", [S, S, S], S),
        ("any-unsafe", [S, C, S], C),
        ("any-unsafe", [S, C, U], U),
        ("any-unsafe", [FAILED, U], U),
        ("any-unsafe", [FAILED, S], FAILED),
        ("any-unsafe", [FAILED, C], FAILED),
        ("majority", [S, S, U], S),
        ("majority", [S, U, U], U),
        ("majority", [S, C, U], U),  # none has most: the worst
        ("majority", [S, U], U),
        ("majority", [S, S, FAILED], S),
        ("majority", [S, U, FAILED], FAILED),
        ("majority", [FAILED, FAILED], FAILED),
    ],
)
def test_rules(rule, verdicts, expected):
    judged = vote(rule, *verdicts)
    assert judged.failure == ("" if expected else f"{verdicts.index(FAILED)}: gone")
    assert not expected or judged.label.verdict == expected
    assert len(judged.votes) == len(verdicts)


def test_score_and_categories_are_of_those_who_agree():
    members = {"a": Member("kill", U, 0.7), "b": Member("bomb", U, 0.8), "c": Member("river", C, 0.99)}
    (judged,) = EnsembleGuard(members, "any-unsafe").results(["kill the bomb by the river"])
    assert judged.label == SafetyLabel(Verdict.UNSAFE, ("kill", "bomb")) and judged.score == 0.8


class Moded(Member):
    """Judges prompts and responses differently."""

    def in_mode(self, mode):
        return Moded(mode)


def test_members_judge_prompts_and_responses_as_such():
    """As post-training data asks for: a member that knows the difference must not judge answers as prompts."""
    guard = EnsembleGuard({"one": Moded("prompt"), "other": Member("poem")}, "any-unsafe")
    for mode, verdicts in (("prompt", [U, S]), ("response", [S, U])):
        moded = guard.in_mode(mode)
        assert [judged.label.verdict for judged in moded.results(["a prompt", "a response"])] == verdicts
        assert (moded.rule, moded.members) == (guard.rule, guard.members)


def test_disagreements_are_written_beside_each_part(tmp_path, write_jsonl):
    texts = random_texts(91, 60)
    path = write_jsonl(texts)
    guard = EnsembleGuard({"a": Member("kill"), "b": Member("bomb", C, 0.25)}, "any-unsafe")
    store = AnnotationStore.create(tmp_path / "store", {**guard.settings, "max_words": 10})
    Annotator(InputFiles([path]), store, guard, 10, chunk_documents=25).run()
    parts = sorted((tmp_path / "store" / "text").rglob("*.parquet"))
    beside = sorted((tmp_path / "store" / "disagreements" / "text").rglob("*.parquet"))
    assert [part.name for part in parts] == [part.name for part in beside] and len(parts) == 3
    rows = [row for part in beside for row in pq.read_table(part).to_pylist()]
    assert rows and set(rows[0]) == {"row", "start", "end", "verdict", "a", "a score", "b", "b score"}
    for row in rows:
        segment = texts[row["row"]][row["start"] : row["end"]]
        assert row["a"] == (U if "kill" in segment else S) and row["b"] == (C if "bomb" in segment else S)
        assert row["verdict"] == max(row["a"], row["b"], key=[S, C, U].index)
        assert row["b score"] == pytest.approx(0.25 if "bomb" in segment else 0.6)
    judged = sum(len(read_part(part).codes) for part in parts)
    assert 0 < len(rows) < judged


def test_a_file_names_the_guards(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(
        "rule: majority\nguards:\n  - guard: heuristic\n  - guard: python:tests.unit.test_ensemble:Member\n"
    )
    guard: Any = load_guard(f"ensemble:{path}")
    assert guard.members == ["heuristic", "says-"]
    assert guard.settings["rule"] == "majority" and guard.settings["member heuristic"]["guard"] == "heuristic"
    with pytest.raises(UsageError, match="threshold belongs to each guard in the file"):
        load_guard(f"ensemble:{path}", GuardOptions(threshold=0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule: most\nguards: [{guard: heuristic}, {guard: heuristic, name: b}]", "ensemble rule 'most'; choose from"),
        ("rule: majority\nguards: [{guard: heuristic}]", "an ensemble of 1 guards"),
        ("rule: majority\nguards: [{guard: heuristic}, {guard: heuristic}]", "two guards are called 'heuristic'"),
        ("rule: majority\nguards: [heuristic]", "begins with `guard: NAME`; got 'heuristic'"),
        ("rule: majority\nguards: [{guard: heuristic, modle: x}]", "no option 'modle'; .*did you mean 'mode'"),
        ("rule: majority\nguards: []\nrules: 1", "'rules' is not a field of an ensemble"),
        ("rule: majority\nguards:", "guards is None; pass a list of at least two"),
        ("rule: majority\nguards: {guard: heuristic}", "guards is {'guard': 'heuristic'}; pass a list"),
        ("rule:\nguards: [{guard: heuristic}, {guard: heuristic, name: b}]", "ensemble rule 'None'; choose from"),
        ("- guard", "not an ensemble"),
        ("a: [", "not an ensemble"),
    ],
)
def test_mistakes_in_the_file_get_one_line(text, message, tmp_path):
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        load_guard(f"ensemble:{tmp_path / 'e.yaml'}")
    assert "\n" not in str(error.value)


def test_a_missing_file():
    with pytest.raises(UsageError, match=r"--guard ensemble:none.yaml: No such file"):
        load_guard("ensemble:none.yaml")


def test_an_ensemble_is_as_busy_as_its_busiest_member():
    class Busy(Member):
        preferred_workers = 7

    assert EnsembleGuard({"a": Member("kill"), "b": Busy("bomb")}, "any-unsafe").preferred_workers == 7
