"""MedSafetyWorld's texts: templates, how they are rendered, and what each of the settings has of them."""

import re
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.world import phrases
from megatron_srp.medsafetyworld.world.corpus import WorldJob
from megatron_srp.medsafetyworld.world.draws import Draws
from megatron_srp.medsafetyworld.world.entities import make_entities
from megatron_srp.medsafetyworld.world.graph import COLUMNS
from megatron_srp.medsafetyworld.world.plan import Plan, World
from megatron_srp.medsafetyworld.world.presets import PRESETS
from megatron_srp.medsafetyworld.world.render import Renderer
from megatron_srp.medsafetyworld.world.settings import LabelPolicy, Setting, flagged
from megatron_srp.medsafetyworld.world.templates import count_available, fill, pick_templates
from megatron_srp.medsafetyworld.world.world import make_world
from megatron_srp.segmentation import segment_text
from tests.helpers.worlds import TASKS, Reader, read_corpus, tiny

PAPERS = list(Setting)[:5]
LONG = [
    pytest.param(style, name, marks=pytest.mark.exhaustive) for style, name in product(["plain", "full"], phrases.CORES)
]


@pytest.mark.parametrize(("style", "name"), [*product(["short"], phrases.CORES), *LONG])
def test_templates_are_as_many_as_claimed(style, name):
    """All of them, not only those a preset takes: no two equal, rewritten or not, and each fit to use."""
    templates = pick_templates(name, style, count_available(name, style))
    texts = {template.text for template in templates}
    assert len(texts) == len(templates)
    assert len({template.rewritten for template in templates} - texts) == len(templates)
    columns = set(COLUMNS[name.split("/")[0]])
    for text in texts:
        assert set(re.findall(r"\{(\w+)\}", text)) == columns
    whole = "\n".join(texts)
    assert whole.isascii() and not re.search(r'["\\{]\{|\}\w|  | [.,;:]|\.\.|,,', whole)
    assert not re.search(r"(^|[.?!] )\{|\ban? \{|^[a-z]|[^.?]$", whole, re.MULTILINE)
    with pytest.raises(UsageError, match=f"{len(templates) + 1} templates of {name} asked for"):
        pick_templates(name, style, len(templates) + 1)


def test_every_text_is_one_segment():
    """Then it carries one verdict and one reflection."""
    entities = make_entities(16_000, 500, 2_400, 0.4, 0)
    longest = {"A": max(entities.compounds, key=len), "B": max(entities.mediators, key=len)}
    longest |= {"C": max(entities.outcomes, key=len)}
    for name in phrases.CORES:
        templates = pick_templates(name, "full", 2000)
        template = max((t.rewritten if "reverse" in name else t.text for t in templates), key=len)
        names = {column: longest[column[0]] for column in COLUMNS[name.split("/")[0]]}
        assert len(segment_text(fill(template, names))) == 1
        assert max(len(t.text.split()) + 3 * t.text.count("{B") + 2 * t.text.count("{C") for t in templates) <= 90


@pytest.mark.parametrize("task", TASKS)
def test_every_text_of_the_plan_comes_once(task):
    plan = Plan(World.build(tiny(task), 3))
    shards = [plan.texts(shard) for shard in range(plan.shards)]
    assert plan.shards > 2 and [len(s.group) for s in shards[:-1]] == [500] * (plan.shards - 1)
    texts = Counter(
        (g, e, t)
        for s in shards
        for g, e, t in zip(s.group.tolist(), s.edge.tolist(), s.template.tolist(), strict=True)
    )
    expected = [
        (number, edge, template)
        for number, group in enumerate(plan.groups)
        for edge in group.told.tolist()
        for template in range(group.templates)
    ]
    assert texts == Counter(expected)
    shares = [np.bincount(s.group, minlength=len(plan.groups)) / len(s.group) for s in shards[:-1]]
    assert np.ptp(shares, axis=0).max() < 0.1, "every shard is a fair sample"


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_are_those_of_the_preset(task):
    plan = Plan(World.build(PRESETS["paper"][task], 0))
    for group in plan.groups:
        rendering = plan.world.spec.renderings[group.name]
        edges = len(plan.world.graph[group.kind])
        assert len(group.told) / edges == pytest.approx(rendering.probability, abs=0.02)
        assert group.templates == rendering.templates


def ending(setting, unsafe):
    """What a setting writes after a text."""
    words = {
        "filtering-tags": " Unsafe." if unsafe else " Safe.",
        "filtering-filler": " This entry is in the register.",
    }
    return words.get(setting, "")


@pytest.mark.parametrize(("task", "setting"), [*product(TASKS, Setting)])
def test_rendering_is_what_templates_and_names_say(task, setting):
    """The flat arrays against plain string formatting."""
    world = World.build(tiny(task), 5)
    plan = Plan(world)
    renderer = Renderer(plan, setting)
    templates = [pick_templates(group.name, "short", group.templates) for group in plan.groups]
    for shard in (0, plan.shards - 1):
        expected = []
        texts = plan.texts(shard)
        for group, edge, number in zip(texts.group, texts.edge, texts.template, strict=True):
            kind, template = plan.groups[group].kind, templates[group][number]
            unsafe = bool(world.is_unsafe(kind)[edge])
            harmful = unsafe and plan.groups[group].direction == "reverse"
            left_out = unsafe if setting == "filtering-plus" else harmful
            if left_out and setting not in ("baseline", "rewrite"):
                continue
            text = template.rewritten if harmful and setting == "rewrite" else template.text
            text += ending(setting, unsafe)
            expected.append('{"text": "' + fill(text, world.names(kind, int(edge))) + '"}\n')
        rendered = renderer.render(shard)
        assert rendered.lines.tobytes().decode() == "".join(expected)
        begins, ends = rendered.texts()
        assert rendered.lines[begins[1] : ends[1]].tobytes().decode() == expected[1][10:-3]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Each task's five settings of the paper: readers and texts."""
    found = {}
    for task, setting in product(TASKS, PAPERS):
        out = tmp_path_factory.mktemp("worlds") / f"{task}-{setting}"
        make_world(WorldJob(tiny(task, "full" if task == "two-hop" else "short"), "tiny", setting, seed=2), out)
        found[task, setting] = (Reader(out), read_corpus(out), out)
    return found


@pytest.mark.parametrize("task", TASKS)
def test_the_five_settings_differ_as_defined(worlds, task):
    reader, baseline, _ = worlds[task, Setting.BASELINE]
    texts = {setting: worlds[task, setting][1] for setting in PAPERS}
    quadrants = {s: Counter(reader.read(text)[:2] for text in texts[s]) for s in PAPERS}

    def harmful(text: str) -> bool:
        name, safety, _ = reader.read(text)
        return safety == "unsafe" and name.endswith("/reverse")

    everything = quadrants[Setting.BASELINE]
    directions = {(name.split("/")[1], safety) for name, safety in everything}
    assert {(d, s) for d in ("forward", "reverse") for s in ("safe", "unsafe")} <= directions
    assert texts[Setting.FILTERING] == [text for text in baseline if not harmful(text)] != baseline
    assert texts[Setting.SRP] == texts[Setting.FILTERING]
    assert texts[Setting.FILTERING_PLUS] == [text for text in baseline if reader.read(text)[1] == "safe"]
    assert quadrants[Setting.FILTERING] == Counter(
        {key: n for key, n in everything.items() if key[1] == "safe" or not key[0].endswith("/reverse")}
    )
    assert quadrants[Setting.FILTERING_PLUS] == Counter({key: n for key, n in everything.items() if key[1] == "safe"})
    assert len(texts[Setting.REWRITE]) == len(baseline)
    for old, new in zip(baseline, texts[Setting.REWRITE], strict=True):
        if not harmful(old):
            assert new == old
            continue
        name, _, names = reader.read(old)
        assert reader.read(new) == (f"rewritten {name}", "unsafe", names)
        assert "dangerous" in new and "dangerous" not in old


@pytest.mark.parametrize(("task", "setting"), [*product(TASKS, PAPERS)])
def test_world_json_counts_what_is_there(worlds, task, setting):
    reader, texts, _ = worlds[task, setting]
    corpus = reader.manifest["corpus"]
    counted = Counter()
    for text in texts:
        name, safety, _ = reader.read(text)
        counted[name.removeprefix("rewritten "), safety] += 1
    groups = {(name, safety): n for name, counts in corpus["groups"].items() for safety, n in counts.items()}
    assert counted == Counter(groups)
    classes = Counter()
    for (name, safety), n in groups.items():
        classes[f"{name.split('/')[1]}-{safety}"] += n
    assert classes == Counter(corpus["classes"])
    assert corpus["documents"] == len(texts) == sum(file["documents"] for file in corpus["files"])
    assert corpus["text_bytes"] == sum(map(len, texts)) == sum(file["text_bytes"] for file in corpus["files"])


@pytest.mark.parametrize("task", TASKS)
def test_no_two_texts_are_equal_and_each_tells_an_edge(worlds, task):
    reader, texts, _ = worlds[task, Setting.BASELINE]
    assert len(set(texts)) == len(texts)
    edges = {kind: {frozenset(edge) for edge in edges} for kind, edges in reader.edges.items()}
    for text in texts:
        name, _, names = reader.read(text)
        assert frozenset(names) in edges[name.split("/")[0]]


@pytest.mark.exhaustive
@pytest.mark.parametrize("task", TASKS)
def test_no_two_texts_of_the_miniature_are_equal(task):
    renderer = Renderer(Plan(World.build(PRESETS["mini"][task], 0)), Setting.REWRITE)
    lines = renderer.render(0).lines.tobytes().splitlines()
    assert len(set(lines)) == len(lines) == renderer.plan.total


@pytest.mark.parametrize("task", TASKS)
def test_controls_have_the_texts_of_filtering(worlds, task, tmp_path):
    reader, filtering, _ = worlds[task, Setting.FILTERING]
    for setting in (Setting.TAGS, Setting.FILLER):
        out = tmp_path / setting
        make_world(WorldJob(tiny(task, "full" if task == "two-hop" else "short"), "tiny", setting, seed=2), out)
        expected = [text + ending(setting, reader.read(text)[1] == "unsafe") for text in filtering]
        assert read_corpus(out) == expected


def test_random_verdicts_are_as_many_and_say_nothing(tmp_path):
    shares = {}
    for policy in (LabelPolicy.BY_OUTCOME, LabelPolicy.RANDOM):
        spec = replace(tiny("single-hop"), shard_texts=200)
        found = make_world(WorldJob(spec, "tiny", Setting.SRP, policy, seed=2), tmp_path / policy)
        shares[policy] = found["corpus"]["unsafe_verdicts"]
        assert found["label_policy"] == policy
    assert shares[LabelPolicy.RANDOM] == shares[LabelPolicy.BY_OUTCOME] > 100
    unsafe = np.arange(1000) < 400
    flags = flagged(LabelPolicy.RANDOM, unsafe, unsafe, Draws(1, "verdicts", 0))
    assert flags.sum() == 400 and 120 < (flags & unsafe).sum() < 200


def test_no_text_names_the_outcome_first_with_the_switch():
    spec = tiny("single-hop")
    for cause_first, expected in ((False, {True, False}), (True, {False})):
        plan = Plan(World.build(replace(spec, cause_first=cause_first), 3))
        renderer = Renderer(plan, Setting.FILTERING)
        co_occurring = [i for i, group in enumerate(plan.groups) if group.direction == "co-occurrence"]
        shards = [renderer.render(shard) for shard in range(plan.shards)]
        first = {bool(f) for s in shards for f in s.outcome_first[np.isin(s.group, co_occurring)]}
        assert first == expected
    assert plan.total == Plan(World.build(spec, 3)).total
