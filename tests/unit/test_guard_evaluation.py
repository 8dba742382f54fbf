"""Evaluation of guards: data sets in their formats, and figures checked by hand."""

import json

import numpy as np
import pytest

from megatron_srp.annotation.base import GuardResult
from megatron_srp.annotation.guard_evaluation.datasets import Columns, Example, load_dataset
from megatron_srp.annotation.guard_evaluation.evaluate import evaluate
from megatron_srp.annotation.guard_evaluation.metrics import (
    accuracy,
    agreement,
    at_thresholds,
    calibration,
    called_harmful,
    confusion,
)
from megatron_srp.annotation.guard_evaluation.summary_text import to_text
from megatron_srp.errors import InputError, UsageError
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from tests.conftest import KeywordGuard
from tests.helpers.commands import srp

FILES = {
    "xstest": (
        'id,prompt,type,label,focus,note\n1,"a, b",homonyms,safe,x,\n2,c,contrast,unsafe,,\n',
        [("a, b", False, "homonyms"), ("c", True, "contrast")],
    ),
    "advbench": ("Do this, and that\nDo more\n", [("Do this, and that", True, ""), ("Do more", True, "")]),
    "harmbench": ('Behavior,SemanticCategory,BehaviorID\n"a ""b"",\nc",illegal,x\n', [('a "b",\nc', True, "illegal")]),
}


@pytest.mark.parametrize("form", FILES)
def test_csv_formats(tmp_path, form):
    content, expected = FILES[form]
    (tmp_path / "d.csv").write_text("\ufeff" + content)
    assert load_dataset(f"{form}:{tmp_path}/d.csv") == [Example(*row) for row in expected]


def test_advbench_with_its_header(tmp_path):
    (tmp_path / "d.csv").write_text('goal,target\n"Do it",Sure\n')
    assert load_dataset(f"advbench:{tmp_path}/d.csv") == [Example("Do it", True)]


def test_json_formats(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "x", "dataset": "koala", "output": "y"}]))
    assert load_dataset(f"alpaca:{tmp_path}/a.json") == [Example("x", False, "koala")]
    (tmp_path / "g.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n\n')
    assert load_dataset(f"gsm8k:{tmp_path}/g.jsonl") == [Example("1 + 1?", False)]
    (tmp_path / "own.jsonl").write_text('{"t": "x", "l": "Harmful", "k": 3}\n{"t": "y", "l": "SAFE", "k": 4}\n')
    own = load_dataset(f"jsonl:{tmp_path}/own.jsonl", Columns("t", label="l", kind="k"))
    assert own == [Example("x", True, "3"), Example("y", False, "4")]


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        ("xstest:{}", "goal,target\nx,y\n", None, "no column 'prompt'; the columns are goal, target"),
        ("xstest:{}", "prompt,type,label\nx,y,maybe\n", None, "label 'maybe'; choose from safe"),
        ("xstest:{}", "", None, "no examples"),
        ("csv:{}", "a,b\n1,2\n", Columns("c", constant="safe"), "no column 'c'"),
        ("json:{}", "{", Columns("c", constant="safe"), "not valid json"),
        ("json:{}", '{"a": 1}', Columns("c", constant="safe"), "not a list of objects"),
        ("jsonl:{}", "3\n", Columns("c", constant="safe"), "not a list of objects"),
        ("xstest:/no/such/file.csv", "", None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, name, content, columns, said):
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(InputError, match=said):
        load_dataset(name.format(tmp_path / "d.csv"), columns)


def test_a_wrong_format_is_named():
    with pytest.raises(UsageError, match="did you mean 'xstest'"):
        load_dataset("xtest:a.csv")
    with pytest.raises(UsageError, match="--text-column"):
        load_dataset("csv:a.csv")


EXAMPLES = [
    Example("a", False, "x"),
    Example("b", False, "y"),
    Example("c", True),
    Example("d", True),
    Example("e", True),
]
JUDGED = [
    GuardResult(SAFE, 0.9),
    GuardResult(SafetyLabel(Verdict.CONTROVERSIAL), 0.6),
    GuardResult(SafetyLabel(Verdict.UNSAFE, ("PII",)), 0.8),
    GuardResult(SAFE, 0.7),
    GuardResult(failure="no answer"),
]


def test_accuracy_by_hand():
    strict = accuracy(EXAMPLES, [called_harmful(one, "unsafe") for one in JUDGED])
    assert (strict.on_safe, strict.on_unsafe, strict.failed) == (1 / 2, 1 / 3, 1)
    assert strict.harmonic_mean == pytest.approx(0.4)
    loose = accuracy(EXAMPLES, [called_harmful(one, "safe") for one in JUDGED])
    assert (loose.on_safe, loose.on_unsafe) == (1, 1 / 3)
    assert np.isnan(accuracy(EXAMPLES[:2], [False, False]).harmonic_mean)
    assert accuracy(EXAMPLES[1:3], [True, False]).harmonic_mean == 0


def test_confusion_by_hand():
    assert confusion(EXAMPLES, JUDGED) == {
        "safe: x": {"Safe": 1},
        "safe: y": {"Controversial": 1},
        "unsafe": {"Unsafe": 1, "Safe": 1, "none": 1},
    }


def test_calibration_by_hand():
    found = calibration(np.array([True, False, True, True]), np.array([0.95, 0.95, 0.05, np.nan]))
    assert found.bins == [(1, 0.05, 1.0), (2, 0.95, 0.5)]
    assert found.error == pytest.approx((1 * 0.95 + 2 * 0.45) / 3)
    assert calibration(np.array([True]), np.array([1.0])).error == 0
    assert np.isnan(calibration(np.array([True]), np.array([np.nan])).error)


def test_thresholds_by_hand():
    found = at_thresholds(EXAMPLES, np.array([0.1, 0.4, 0.9, 0.3, np.nan]), [0.3, 0.5])
    assert (found[0.3].on_safe, found[0.3].on_unsafe) == (1 / 2, 2 / 3)
    assert (found[0.5].on_safe, found[0.5].on_unsafe) == (1, 1 / 3)
    assert at_thresholds(EXAMPLES, np.full(5, np.nan), [0.5]) == {}


def test_agreement_by_hand():
    written = [
        GuardResult(SAFE),
        GuardResult(SAFE),
        GuardResult(SafetyLabel(Verdict.UNSAFE, ("Violent",))),
        GuardResult(SAFE),
        GuardResult(SAFE),
    ]
    found = agreement(JUDGED, written)
    assert (found["texts"], found["failed"], found["same_verdict"], found["same_label"]) == (5, 1, 3 / 4, 2 / 4)
    assert found["pairs"]["Controversial read, Safe written"] == 1


def test_a_guard_without_probabilities_is_evaluated_and_says_so():
    found = evaluate(KeywordGuard(), {"mine": [Example("to kill", True, "k"), Example("a river", False)]})
    assert found.accuracies["all"].harmonic_mean == 1
    assert "no probabilities" in to_text(found)
    tree = json.loads(found.to_json())
    assert tree["accuracies"]["mine"]["accuracy_on_unsafe"] == 1
    assert tree["calibration"]["error"] is None
    assert tree["categories"] == {"Violent": 1, "PII": 1}
    with pytest.raises(UsageError, match="pass a chat guard"):
        evaluate(KeywordGuard(), {}, with_agreement=True)


def test_the_command(tmp_path):
    (tmp_path / "d.csv").write_text("text,kind\nHow to murder the villagers,a\nThe river,b\n")
    command = ["evaluate-guard", "--guard", "heuristic", "--dataset", f"csv:{tmp_path}/d.csv", "--text-column", "text"]
    out = tmp_path / "out.json"
    done = srp(*command, "--label", "unsafe", "--json", out)
    assert "| all | 0 | 2 | - | 50.0 |" in done.stdout
    assert json.loads(out.read_text())["accuracies"]["all"]["unsafe"] == 2
    failed = srp(*command)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: --text-column needs") and failed.stderr.count("\n") == 1
