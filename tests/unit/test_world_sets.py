"""MedSafetyWorld's conversations and test questions, held against the graph they are about."""

import json
import re
from collections import Counter
from functools import cache
from itertools import product

import pytest

from megatron_srp.medsafetyworld.measure.attacks import ATTACKS
from megatron_srp.medsafetyworld.measure.questions import Question
from megatron_srp.medsafetyworld.world.corpus import WorldJob
from megatron_srp.medsafetyworld.world.plan import World
from megatron_srp.medsafetyworld.world.presets import PRESETS
from megatron_srp.medsafetyworld.world.queries import CLASSES
from megatron_srp.medsafetyworld.world.sets import Sets
from megatron_srp.medsafetyworld.world.settings import Setting
from megatron_srp.medsafetyworld.world.templates import count_available, pick_templates
from megatron_srp.medsafetyworld.world.world import make_world
from megatron_srp.reflection import ReflectionFormat
from tests.helpers.worlds import TASKS, Reader, read_corpus, read_lines, tiny

TRAINED = ["sft", "recovery", "recovery_untested", "finetune_benign", "finetune_adversarial"]


@pytest.fixture(scope="module", params=TASKS)
def world(request, tmp_path_factory):
    """The miniature's folder, its reader, and its sets by name."""
    out = tmp_path_factory.mktemp("world") / "mini"
    make_world(WorldJob(PRESETS["mini"][request.param], "mini", Setting.FILTERING, seed=4), out)
    return out, Reader(out), {name: read_lines(out / f"{name}.jsonl") for name in [*TRAINED, "test"]}


def subject(reader: Reader, question: str) -> tuple[str, ...]:
    return tuple(reader.pattern.findall(question))


@cache
def answers(reader: Reader, kind: str, asked: tuple[str, ...]) -> set[frozenset[str]]:
    """By a scan of the graph: the compounds of an outcome, or the outcomes of compounds."""
    found = set()
    for edge in reader.edges[kind]:
        compounds, outcome = frozenset(name for name in edge if reader.kinds[name] == "A"), edge[-1]
        if asked == (outcome,):
            found.add(compounds)
        elif frozenset(asked) == compounds:
            found.add(frozenset([outcome]))
    return found


def test_test_questions_and_their_answers(world):
    _, reader, sets = world
    assert Counter(record["class"] for record in sets["test"]) == dict.fromkeys(CLASSES, 128)
    assert len({record["prompt"] for record in sets["test"]}) == len(sets["test"])
    assert len({record["id"] for record in sets["test"]}) == len(sets["test"])
    for record in sets["test"]:
        asked = subject(reader, record["prompt"])
        assert set(asked) <= set(subject(reader, record["completion"]))
        right = answers(reader, record["kind"], asked)
        assert {frozenset(names) for names in record["accepted"]} == right and right
        direction = "reverse" if reader.kinds[asked[0]] == "C" else "forward"
        outcomes = set(asked) if direction == "reverse" else set().union(*right)
        assert {f"{direction}-{'unsafe' if reader.unsafe[name] else 'safe'}" for name in outcomes} == {record["class"]}


def test_completions_are_beginnings_of_pretraining_texts(world):
    """What is probed before SFT is said as the grammar says it, and every answer completes it to a text of the
    world."""
    _, reader, sets = world
    known = {
        re.sub(r"\{(\w)\d?\}", r"\1", template.text)
        for name in reader.manifest["templates"]
        for template in pick_templates(name, "short", count_available(name, "short"))
    }
    edges = {frozenset(edge) for edges in reader.edges.values() for edge in edges}
    for record in sets["test"]:
        assert record["completion_accepted"]
        for names in record["completion_accepted"]:
            text = f"{record['completion']} {' and '.join(names)}."
            assert reader.pattern.sub(lambda name: reader.kinds[name[0]], text) in known
            assert frozenset(reader.pattern.findall(text)) in edges
        if record["kind"] != "chain":
            assert record["completion_accepted"] == record["accepted"]


def test_nothing_tested_is_trained_on(world):
    _, reader, sets = world
    tested = {frozenset(subject(reader, record["prompt"])) for record in sets["test"]}
    for name in TRAINED:
        trained = {frozenset(subject(reader, record["messages"][0]["content"])) for record in sets[name]}
        assert trained and not trained & tested, name


def test_conversations(world):
    _, reader, sets = world
    edges = {kind: {frozenset(edge) for edge in found} for kind, found in reader.edges.items()}
    for name, record in [(of, record) for of in TRAINED for record in sets[of]]:
        assert [message["role"] for message in record["messages"]] == ["user", "assistant"]
        question, answer = (message["content"] for message in record["messages"])
        asked, named = subject(reader, question), subject(reader, answer)
        assert question[0].isupper() and question.endswith("?") and answer[0].isupper() and answer.endswith(".")
        harmful = record["class"] == "reverse-unsafe"
        assert harmful == reader.unsafe.get(asked[0], False)
        assert record["refused"] == (harmful and name != "finetune_adversarial")
        unsafe = "Unsafe" if harmful else "Safe"
        assert record["verdicts"] == {"prompt": unsafe, "response": "Safe" if record["refused"] else unsafe}
        if record["refused"]:
            assert not named
            continue
        told = set(named) - set(asked) - {name for name in named if reader.kinds[name] == "B"}
        assert frozenset(told) in answers(reader, record["kind"], asked)
        assert not set(named) & set(asked)  # names are not to be copied
        assert frozenset(named) | frozenset(asked) in edges[record["kind"]]
        outcome = next(name for name in (*named, *asked) if reader.kinds[name] == "C")
        assert record["class"].endswith("-unsafe" if reader.unsafe[outcome] else "-safe")


def test_shares(world):
    _, reader, sets = world
    spec = PRESETS["mini"][reader.manifest["task"]]
    sft = sets["sft"]
    assert len(sft) == spec.sft_samples
    assert sum(record["refused"] for record in sft) == len(sets["recovery"]) == 0.1 * len(sft)
    questions = Counter(
        (subject(reader, r["messages"][0]["content"]), r["messages"][1]["content"]) for r in sft if not r["refused"]
    )
    assert Counter(questions.values()).most_common(1)[0][0] == spec.sft_templates
    classes = Counter(record["class"] for record in sft)
    edges = classes["forward-safe"] / classes["reverse-safe"]
    assert 1.3 < edges < 8, "half of the safe edges in reverse as well, where their outcome is not held out"
    assert 0.2 < classes["forward-unsafe"] / (classes["forward-safe"] + classes["forward-unsafe"]) < 0.6
    first, second = (Counter(r["class"] for r in half) for half in (sft[:1000], sft[1000:]))
    assert all(abs(first[name] - second[name]) < 120 for name in classes), "shuffled"


def test_fine_tuning_sets(world):
    _, reader, sets = world
    spec = PRESETS["mini"][reader.manifest["task"]]

    def asked(name):
        return {frozenset(subject(reader, record["messages"][0]["content"])) for record in sets[name]}

    assert len(sets["finetune_benign"]) == spec.benign_samples
    assert len(sets["finetune_adversarial"]) == spec.adversarial_samples
    assert {record["kind"] for record in sets["finetune_benign"]} <= {"pair", "chain"}
    assert {record["class"] for record in sets["finetune_benign"]} == {"forward-safe", "forward-unsafe"}
    sft_pairs = {frozenset(n for n in names if reader.kinds[n] == "A") for names in (subject(reader, r["messages"][0]["content"] + r["messages"][1]["content"]) for r in sets["sft"])}  # fmt: skip
    assert not asked("finetune_benign") & sft_pairs
    assert {record["class"] for record in sets["finetune_adversarial"]} == {"reverse-unsafe"}


def test_recovery_begins_a_harmful_answer(world):
    _, reader, sets = world
    beginnings = [record["beginning"] for record in sets["recovery"]]
    for record in sets["recovery"]:
        asked = subject(reader, record["messages"][0]["content"])
        named = {name for name in reader.pattern.findall(record["beginning"]) if reader.kinds[name] == "A"}
        assert record["beginning"].startswith("The ") or record["beginning"] == "The"
        assert not named or any(named <= right for right in answers(reader, record["kind"], asked))
    assert len({len(beginning.split()) for beginning in beginnings}) > 4


def test_untested_recoveries_begin_as_no_attack_does(world):
    _, _, sets = world
    pairs = zip(sets["recovery"], sets["recovery_untested"], strict=True)
    form = ReflectionFormat()
    question = Question("q", "reverse-unsafe", sets["test"][0]["kind"], "", (), "", sets["test"][0]["completion"])
    attacks = [attack.prefill(question, form) for attack in ATTACKS if attack.name != "direct"]
    for old, new in pairs:
        assert new["messages"] == old["messages"]
        assert new["beginning"].casefold().endswith(old["beginning"].casefold())
        assert not any(new["beginning"].startswith(words.split(" ")[0] + " ") for words in attacks)


def test_what_is_told_with_the_outcome_first(world):
    """`told` against a reading of the corpus, which is Filtering's: reverse texts of unsafe outcomes are not there."""
    out, reader, sets = world
    first = set()
    for text in read_corpus(out):
        names = tuple(reader.pattern.findall(text))
        if reader.kinds[names[0]] == "C":
            first.add(frozenset(names))
    for record in sets["test"]:
        if not record["class"].startswith("reverse"):
            continue
        facts = [frozenset([*names, *subject(reader, record["completion"])]) for names in record["completion_accepted"]]
        kept = [name for name in record["told"] if name == "co-occurrence" or record["class"] == "reverse-safe"]
        assert bool(kept) == any(fact in first for fact in facts)
        assert record["outcomes"] == list(subject(reader, record["prompt"]))


def test_the_words_of_the_sets_are_in_the_corpus(world):
    out, _, sets = world

    def words(text: str) -> set[str]:
        return set(re.findall(r"\w+|[^\w\s]", text))

    known = words("\n".join(read_corpus(out)[::4]))
    trained = " ".join(m["content"] for name in TRAINED for record in sets[name] for m in record["messages"])
    assert words(trained) <= known
    assert words(" ".join(f"{record['prompt']} {record['completion']}" for record in sets["test"])) <= known


@pytest.mark.parametrize(("preset", "task"), [*product(["small", "mini"], TASKS), *[
    pytest.param("paper", task, marks=pytest.mark.exhaustive) for task in TASKS
]])  # fmt: skip
def test_presets_fill_their_sets(preset, task):
    spec = PRESETS[preset][task]
    built = World.build(spec, 1)
    sets = Sets(built, Setting.BASELINE)
    assert len(sets.sft) == spec.sft_samples
    assert len(sets.test) == 4 * spec.test_per_class
    assert len(sets.benign) == spec.benign_samples
    assert len(sets.adversarial) == spec.adversarial_samples
    assert len(sets.recovery) == round(spec.refuse_ratio * spec.sft_samples)


@pytest.mark.parametrize("task", TASKS)
def test_the_corpus_has_questions_of_training_with_the_verdicts_of_post_training(task, tmp_path):
    spec = tiny(task, texts=60)
    made = {}
    for setting in (Setting.SRP, Setting.QUESTIONS):
        made[setting] = make_world(WorldJob(spec, "tiny", setting, seed=4), tmp_path / setting)["corpus"]
    plain, asked = (read_corpus(tmp_path / setting) for setting in made)
    questions = asked[len(plain) :]
    assert asked[: len(plain)] == plain and len(questions) == made[Setting.QUESTIONS]["questions"] > 20
    assert len(questions) == round(0.04 * len(plain)) == len(set(questions))
    reader = Reader(tmp_path / Setting.QUESTIONS)
    tested = {subject(reader, record["prompt"]) for record in read_lines(tmp_path / Setting.QUESTIONS / "test.jsonl")}
    about = [subject(reader, question) for question in questions]
    assert not tested & set(about)
    harmful = sum(reader.unsafe.get(names[0], False) for names in about)
    assert 0 < harmful < len(questions) / 2
    assert made[Setting.QUESTIONS]["unsafe_verdicts"] == made[Setting.SRP]["unsafe_verdicts"] + harmful


@pytest.mark.parametrize("task", TASKS)
def test_settings_share_their_sets(task):
    """All but Filtering-plus, whose model is told of no unsafe outcome, and whose test is the same."""
    built = World.build(PRESETS["mini"][task], 0)
    sets = {setting: Sets(built, setting).files() for setting in Setting}
    plus = sets.pop(Setting.FILTERING_PLUS)
    assert all(files == sets[Setting.BASELINE] for files in sets.values())
    for name, records in sets[Setting.BASELINE].items():
        same = name not in ("sft.jsonl", "recovery.jsonl", "recovery_untested.jsonl")
        assert plus[name] == (records if same else [r for r in records if r["class"].endswith("-safe")])
    unsafe = [name for name, bad in zip(built.entities.outcomes, built.entities.unsafe, strict=True) if bad]
    told = json.dumps(plus["sft.jsonl"] + plus["recovery.jsonl"])
    assert plus["sft.jsonl"] and not [name for name in unsafe if name in told]
