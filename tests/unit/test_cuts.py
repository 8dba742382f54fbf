"""`srp evaluate-guard --cuts`: the segments of other cuts, and the verdicts that change."""

import json

import numpy as np
import pytest

from megatron_srp.annotation.base import Guard, GuardResult
from megatron_srp.annotation.guard_evaluation.cuts import Place, cuts_to_text, evaluate_cuts, sample_places
from megatron_srp.cli.evaluate_guard import main as evaluate_guard
from megatron_srp.corpus.patterns import expand_inputs
from megatron_srp.errors import InputError, UsageError
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.segmentation import segment_text
from tests.helpers.corpus_files import write

UNSAFE = SafetyLabel(Verdict.UNSAFE)


class Reader(Guard):
    """Unsafe is "bad", unless the text before it has a "not"; no verdict on "odd"."""

    revision = "1"

    def __init__(self, context_words=0):
        self.context_words = context_words

    def classify(self, texts):
        return [one.label for one in self.results(texts)]

    def results(self, texts):
        return [
            GuardResult(failure="odd") if "odd" in text else GuardResult(UNSAFE if "bad" in text else SAFE)
            for text in texts
        ]

    def results_in_context(self, texts, contexts):
        given = self.results(texts.to_pylist())
        return [GuardResult(SAFE) if "not" in one.split() else two for one, two in zip(contexts, given, strict=True)]


def place(text, number, max_words):
    segments = segment_text(text, max_words)
    start, end = (len(text[:at].encode()) for at in segments[number])
    return Place(text.encode(), start, end, number)


WORDS = "é1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12"


def test_other_cuts_cover_the_middle():
    one = place(WORDS, 1, 4)
    assert one.text == " w5 w6 w7 w8"
    assert one.recut(4) == one.text
    assert one.recut(2) == " w7 w8"  # the middle byte is the space before w7
    assert one.recut(8) == WORDS[: WORDS.index(" w9")]
    assert one.recut(4, len("é1 w2".encode())) == " w7 w8 w9 w10"


def test_changes_by_hand():
    places = [
        place("w1 bad w3 w4 w5 w6 w7 w8", 0, 4),  # Unsafe, Safe in the half after the bad one
        place("w1 bad not w4 w5 w6 bad w8", 1, 4),  # Unsafe, Safe by its context
        place("w1 w2 w3 bad w5 w6 w7 w8", 1, 4),  # Safe, Unsafe with the segment before
        place("w1 w2 w3 odd w5 w6 w7 w8", 1, 4),  # Safe, then no verdict
    ]
    half, double, earlier, context = evaluate_cuts(Reader(3), places, 4).changes
    assert (half.segments, half.changed, half.harmful, half.became_safe) == (4, 1, 2, 1)
    assert (double.segments, double.changed, double.became_harmful) == (3, 1, 1)
    assert (context.change, context.segments, context.became_safe) == ("3 words before it shown", 3, 1)
    assert earlier.segments == 3  # nothing is before a first segment
    assert 0 < half.low < 1 / 4 < half.high < 1
    assert len(evaluate_cuts(Reader(), places, 4).changes) == 3


def test_the_table_names_missing_verdicts():
    found = evaluate_cuts(Reader(), [place("w1 w2 w3 odd w5 w6 w7 w8", 1, 4)], 4)
    assert cuts_to_text(found).endswith("no verdict: 1, left out")


def test_one_random_segment_of_each_document(tmp_path):
    texts = [f"{number} a. b c. d e. f g." for number in range(300)]
    files = expand_inputs([str(write(tmp_path / "a.jsonl", [*texts, ""]))])
    places = sample_places(files, "text", 2, 10_000)
    assert [one.document.decode() for one in places] == texts
    assert np.bincount([one.number for one in places], minlength=4).min() > 40
    assert all(one == place(one.document.decode(), one.number, 2) for one in places)
    assert len(sample_places(files, "text", 2, 50)) == 50
    with pytest.raises(InputError, match="no segment"):
        sample_places(expand_inputs([str(write(tmp_path / "b.jsonl", [""]))]), "text", 2, 50)


def test_the_command(tmp_path, capsys):
    path = str(write(tmp_path / "a.jsonl", ["How to build a bomb. A quiet river. It rains."] * 30))
    flags = ["--guard", "heuristic", "--cuts", "--input", path, "--max-words", "6"]
    evaluate_guard([*flags, "--json", str(tmp_path / "out.json")])
    assert "| at most 12 words | 30 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["documents"] == 30
    for wrong, said in (
        (["--dataset", "csv:x"], "either --dataset"),
        (["--agreement"], "leave it out with --cuts"),
        (["--sample", "0"], "at least 1"),
    ):
        with pytest.raises(UsageError, match=said):
            evaluate_guard([*flags, *wrong])
    with pytest.raises(UsageError, match="--context-words"):
        evaluate_guard(["--guard", "heuristic", "--dataset", "csv:x", "--context-words", "3"])
