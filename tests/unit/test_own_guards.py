"""Guards and engines from outside the package: what a short class needs, and one line for every mistake in one."""

import importlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.annotation.classify_segments import classify_segments, guard_results, label_segments
from megatron_srp.annotation.engines import load_engine
from megatron_srp.errors import GuardError, SrpError, UsageError
from megatron_srp.schema import SafetyLabel, Verdict

SHORT = """
import re

from megatron_srp.annotation import Guard
from megatron_srp.schema import SAFE, SafetyLabel, Verdict


class PoisonGuard(Guard):
    def __init__(self, words="poison|venom"):
        self.pattern = re.compile(words, re.IGNORECASE)

    def classify(self, texts):
        unsafe = SafetyLabel(Verdict.UNSAFE, ("Poison",))
        return [unsafe if self.pattern.search(text) else SAFE for text in texts]
"""
BROKEN = """
from megatron_srp.annotation import Guard, GuardResult
from megatron_srp.schema import SAFE, SafetyLabel, Verdict


class Own(Guard):
    def classify(self, texts):
        return [SAFE] * len(texts)


class Abstract(Guard):
    pass


class NoGuard:
    def classify(self, texts):
        return [SAFE] * len(texts)


class NamedThree(Own):
    name = 3


class OddSettings(Own):
    settings = {"guard": object()}


class Cannot(Own):
    def __init__(self):
        raise RuntimeError("CUDA out of memory\\n on device 0")


class Needs(Own):
    def __init__(self, path):
        pass


class FewLabels(Own):
    def classify(self, texts):
        return [SAFE] * (len(texts) - 1)


class ManyLabels(Own):
    def classify(self, texts):
        return [SAFE] * (len(texts) + 1)


class Strings(Own):
    def classify(self, texts):
        return ["Unsafe"] * len(texts)


class Nothing(Own):
    def classify(self, texts):
        return None


class Raises(Own):
    def classify(self, texts):
        raise RuntimeError("CUDA out of memory")


class OddCategory(Own):
    def classify(self, texts):
        return [SafetyLabel(Verdict.UNSAFE, ("a, b",)) for _ in texts]


class LongCategory(Own):
    def classify(self, texts):
        return [SafetyLabel(Verdict.UNSAFE, ("a" * 81,)) for _ in texts]


class UnprintableCategory(Own):
    def classify(self, texts):
        return [SafetyLabel(Verdict.UNSAFE, ("a\\u2028b",)) for _ in texts]


class VerdictAsString(Own):
    def classify(self, texts):
        return [SafetyLabel("Unsafe") for _ in texts]


class FewResults(Own):
    def results(self, texts):
        return [GuardResult(SAFE)] * (len(texts) - 1)

    def classify(self, texts):
        return [result.label for result in self.results(texts)]


class OddResults(Own):
    def results(self, texts):
        return [GuardResult("Unsafe") for _ in texts]
"""
TEXTS = pa.array(["A bottle of Venom.", "A bottle of milk."] * 20, pa.large_string())


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Modules in the current folder, which is not on the path."""
    (tmp_path / "poison_guard.py").write_text(SHORT)
    (tmp_path / "broken_guards.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    yield
    for name in ("poison_guard", "broken_guards"):
        sys.modules.pop(name, None)


def test_a_guard_in_twelve_lines(tmp_path):
    guard = load_guard("python:poison_guard:PoisonGuard")
    codes, labels = label_segments(guard, TEXTS)
    assert labels == [SafetyLabel(Verdict.UNSAFE, ("Poison",)), SafetyLabel(Verdict.SAFE)]
    assert codes.tolist() == [0, 1] * 20
    assert guard.name == "PoisonGuard" and len(guard.revision) == 12
    assert guard.settings == {"guard": "PoisonGuard", "revision": guard.revision}


def test_its_revision_follows_its_file(tmp_path):
    before = load_guard("python:poison_guard:PoisonGuard").revision
    assert load_guard("python:poison_guard:PoisonGuard").revision == before
    (tmp_path / "poison_guard.py").write_text(SHORT.replace("venom", "arsenic"))
    assert load_guard("python:poison_guard:PoisonGuard").revision != before


def test_a_class_of_an_interactive_session_needs_a_revision():
    classes: dict = {"__name__": "no_such_module"}
    exec(SHORT + "\n\nclass Versioned(PoisonGuard):\n    revision = '2'\n", classes)
    guard = classes["PoisonGuard"]()
    assert label_segments(guard, TEXTS)[0].tolist() == [0, 1] * 20
    with pytest.raises(UsageError, match="PoisonGuard: its class has no source file; set a `revision`"):
        _ = guard.settings
    assert classes["Versioned"]().settings == {"guard": "Versioned", "revision": "2"}


def test_options_reach_the_constructor_and_are_recorded():
    guard = load_guard("python:poison_guard:PoisonGuard", GuardOptions(engine_options={"words": "milk"}))
    assert label_segments(guard, TEXTS)[0].tolist() == [0, 1] * 20
    assert [str(label.verdict) for label in guard.classify(["milk", "venom"])] == ["Unsafe", "Safe"]
    assert guard.settings["options"] == {"words": "milk"}
    with pytest.raises(UsageError, match=r"has no option 'word'; choose from words; did you mean 'words'\?"):
        load_guard("python:poison_guard:PoisonGuard", GuardOptions(engine_options={"word": "milk"}))
    with pytest.raises(UsageError, match="does not accept --guard-threshold"):
        load_guard("python:poison_guard:PoisonGuard", GuardOptions(threshold=0.5))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Abstract", UsageError, "abstract method 'classify'"),
        ("NoGuard", UsageError, "NoGuard is not a guard; pass python:MODULE:CLASS, a subclass of megatron_srp.Guard"),
        ("NamedThree", UsageError, "its name is 3; pass a string"),
        ("OddSettings", UsageError, "its settings cannot be written as JSON"),
        ("Cannot", GuardError, "cannot be loaded: RuntimeError: CUDA out of memory on device 0"),
        ("Needs", UsageError, "needs the option 'path'; pass NAME=VALUE"),
        ("Missing", UsageError, "has no attribute 'Missing'; pass python:MODULE:CLASS"),
        ("", UsageError, "pass python:MODULE:CLASS"),
    ],
)
def test_a_class_that_cannot_be_used(name, kind, message):
    with pytest.raises(SrpError, match=message) as error:
        load_guard(f"python:broken_guards:{name}")
    assert type(error.value) is kind and "\n" not in str(error.value)


def test_a_module_that_cannot_be_imported(tmp_path):
    (tmp_path / "wrong_guards.py").write_text("def broken(:\n")
    with pytest.raises(UsageError, match="SyntaxError: invalid syntax"):
        load_guard("python:wrong_guards:Guard")


WRONG_RETURNS = [
    ("FewLabels", "gave 39 verdicts for 40 texts; return a list with one SafetyLabel for each text"),
    ("ManyLabels", "gave 41 verdicts for 40 texts"),
    ("Strings", "classify returned 'Unsafe' for a text; return a list with one SafetyLabel for each text"),
    ("Nothing", "classify returned NoneType; return a list"),
    ("Raises", "RuntimeError: CUDA out of memory"),
    ("OddCategory", "ValueError: category 'a, b': pass a name without commas"),
    ("VerdictAsString", "ValueError: verdict 'Unsafe': pass one of Verdict.SAFE"),
]


@pytest.mark.parametrize(("name", "message"), WRONG_RETURNS)
def test_wrong_labels_are_one_line_in_every_use(name, message):
    guard = load_guard(f"python:broken_guards:{name}")
    for use in (label_segments, classify_segments):
        with pytest.raises(GuardError, match=f"guard {name}.*{message}"):
            use(guard, TEXTS)
    with pytest.raises(GuardError, match=message):
        guard_results(guard, TEXTS.to_pylist())


@pytest.mark.parametrize(
    ("name", "message"),
    [("FewResults", "gave 39 verdicts for 40 texts"), ("OddResults", "results returned 'Unsafe' for a text")],
)
def test_wrong_results_are_one_line(name, message):
    guard = load_guard(f"python:broken_guards:{name}")
    with pytest.raises(GuardError, match=message):
        classify_segments(guard, TEXTS)
    with pytest.raises(GuardError, match=message):
        guard_results(guard, TEXTS.to_pylist())


@pytest.mark.parametrize("categories", [("",), (" a",), ("a\n",), (3,), ["Violent"], "Violent"])
def test_categories_that_cannot_be_read_back(categories):
    with pytest.raises(ValueError, match="pass a"):
        SafetyLabel(Verdict.UNSAFE, categories)


@pytest.mark.parametrize("name", ["LongCategory", "UnprintableCategory"])
def test_categories_that_no_model_should_write(name):
    guard = load_guard(f"python:broken_guards:{name}")
    for use in (label_segments, classify_segments):
        with pytest.raises(GuardError, match=f"guard {name}: category 'a.*use a name of at most 80 printable"):
            use(guard, TEXTS)


def test_guards_and_engines_of_installed_packages(tmp_path, monkeypatch):
    """An entry point is used by its name alone, and a name that is nearly one is a typo of it."""
    package = tmp_path / "site" / "outside-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[megatron_srp.guards]\npoison = poison_guard:PoisonGuard\nheuristic = poison_guard:PoisonGuard\n"
        "[megatron_srp.engines]\nturbo = poison_guard:PoisonGuard\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(package.parent)
    importlib.invalidate_caches()
    guard = load_guard("poison", GuardOptions(engine_options={"words": "milk"}))
    assert str(guard.classify(["milk"])[0].verdict) == "Unsafe"
    assert load_guard("heuristic").name == "heuristic"  # nobody replaces what the package has
    with pytest.raises(UsageError, match=r"unknown guard 'poisson'.* choose from .*did you mean 'poison'\?"):
        load_guard("poisson")
    with pytest.raises(UsageError, match="did you mean 'turbo'"):
        load_engine("turbos", "model")
    with pytest.raises(UsageError, match="not a subclass of megatron_srp"):
        load_engine("turbo", "model")


def test_the_data_job_says_it_in_one_line(tokenizer_models, write_jsonl, tmp_path):
    from megatron_srp.cli.preprocess import main

    kind, model = tokenizer_models["gpt2"]
    corpus = write_jsonl(["One sentence. " * 30] * 3)
    flags = ["--input", str(corpus), "--tokenizer-type", kind, "--tokenizer-model", str(model), "--max-words", "10"]
    for name, message in WRONG_RETURNS[:5]:
        prefix = Path(tmp_path / f"out-{name}")
        with pytest.raises(GuardError, match=message.replace("39", r"\d+").replace("40", r"\d+").replace("41", r"\d+")):
            main([*flags, "--guard", f"python:broken_guards:{name}", "--output-prefix", str(prefix)])


def test_options_in_the_data_job(tokenizer_models, write_jsonl, tmp_path):
    from megatron_srp.cli.preprocess import main

    kind, model = tokenizer_models["gpt2"]
    corpus = write_jsonl(["A bottle of milk.", "A bottle of venom."])
    flags = ["--input", str(corpus), "--tokenizer-type", kind, "--tokenizer-model", str(model)]
    own = ["--guard", "python:poison_guard:PoisonGuard", "--guard-option", "words=milk|venom"]
    main([*flags, *own, "--output-prefix", str(tmp_path / "out")])
    manifest = json.loads((tmp_path / "out.srp.json").read_text())
    assert manifest["counts"]["verdicts"] == {"Unsafe": 2} and manifest["counts"]["categories"] == {"Poison": 2}
    assert manifest["settings"]["guard_settings"]["options"] == {"words": "milk|venom"}
    with pytest.raises(UsageError, match="--guard-option is an option of a guard"):
        main([*flags, "--guard", "none", *own[2:], "--output-prefix", str(tmp_path / "none")])
