"""Data sets in their public formats, and what is said of files that are not."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from megatron_srp.errors import InputError, UsageError
from megatron_srp.evaluation.behaviors import choose, find_sources, formats, load_behaviors
from megatron_srp.evaluation.types import Behavior

SHARED = os.environ.get("SRP_EVAL_DATA", "../shared/data/eval")

# name: (file, content, behaviors); contents as the public files have them, with made-up texts
FILES = {
    "advbench": ("a.csv", 'goal,target\n"Do x, y","Sure, x"\n', [Behavior("1", "Do x, y", "Sure, x")]),
    "harmbench": (
        "h.csv",
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\nDo x,standard,illegal,,,do_x\n"
        'Do y,contextual,chemical,,"A, text",do_y\n',
        [
            Behavior("do_x", "Do x", "Sure, x", category="illegal"),
            Behavior("do_y", "A, text\n\n---\n\nDo y", category="chemical"),
        ],
    ),
    "xstest": (
        "x.csv",
        "id,prompt,type,label,focus,note\n1,Kill a process?,homonyms,safe,kill,\n2,Kill a man?,contrast_homonyms,unsafe,kill,\n",
        [
            Behavior("1", "Kill a process?", harmful=False, category="homonyms"),
            Behavior("2", "Kill a man?", category="contrast_homonyms"),
        ],
    ),
    "simplesafetytests": (
        "s.csv",
        "id,harm_area,counter,category,prompt\nS1,Scams,1,Info,Do x\n",
        [Behavior("S1", "Do x", category="Scams")],
    ),
    "directharm4": (
        "d.json",
        json.dumps([{"instruction": "Do x", "category": "Malware"}]),
        [Behavior("1", "Do x", category="Malware")],
    ),
    "hexphi": (
        "p.jsonl",
        '{"instruction": "Do x", "output": "Step one"}\n',
        [Behavior("1", "Do x", "Step one", response="Step one")],
    ),
    "beavertails": (
        "b.jsonl",
        '{"prompt": "x?", "response": "y", "category": {"a": true}, "is_safe": false}\n'
        '{"prompt": "x?", "response": "z", "category": {}, "is_safe": true}\n',
        [Behavior("1", "x?", response="y"), Behavior("2", "x?", harmful=False, response="z")],
    ),
    "gsm8k": (
        "g.jsonl",
        '{"question": "1 + 1?", "answer": "#### 2"}\n',
        [Behavior("1", "1 + 1?", harmful=False, response="#### 2")],
    ),
    "gsm8k-train": (
        "g.jsonl",
        '{"question": "1 + 1?", "answer": "#### 2"}\n',
        [Behavior("1", "1 + 1?", harmful=False, response="#### 2")],
    ),
    "alpaca": (
        "a.json",
        json.dumps([{"dataset": "koala", "instruction": "x", "output": "y", "generator": "z"}]),
        [Behavior("1", "x", harmful=False, category="koala", response="y")],
    ),
    "jbcompletions": (
        "j.json",
        json.dumps([{"original_behavior": "Do x", "completion_behavior": "To do x,", "source_dataset": "HarmBench"}]),
        [Behavior("1", "Do x", category="HarmBench", completion="To do x,")],
    ),
    "medsafetyworld": (
        "w.jsonl",
        '{"id": "7", "prompt": "What causes x?", "target": "The", "answer": "y", "harmful": "true"}\n',
        [Behavior("7", "What causes x?", target="The", response="y")],
    ),
    "medsafetyworld-train": (
        "w.jsonl",
        '{"prompt": "What causes x?", "answer": "y"}\n',
        [Behavior("1", "What causes x?", response="y")],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_formats(tmp_path, name):
    file, content, expected = FILES[name]
    (tmp_path / file).write_text(content)
    (tmp_path / "harmbench_targets_text.json").write_text('{"do_x": "Sure, x"}')
    assert load_behaviors(name, str(tmp_path / file)) == expected
    if file.endswith("json") or file.endswith("jsonl"):
        rows = json.loads(content) if file.endswith("json") else [json.loads(line) for line in content.splitlines()]
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
        if name != "beavertails":  # its empty struct has no Parquet form
            assert load_behaviors(name, str(tmp_path / "t.parquet")) == expected


def test_simplesafetytests_as_its_authors_publish_it(tmp_path):
    (tmp_path / "s.csv").write_text("id,harm_area,counter,category,prompts_final\nS1,Scams,1,Info,Do x\n")
    assert load_behaviors("simplesafetytests", str(tmp_path / "s.csv")) == [Behavior("S1", "Do x", category="Scams")]


def test_all_formats_are_tested():
    assert set(FILES) == set(formats())


def test_files_without_header_and_folders(tmp_path):
    (tmp_path / "category_1.csv").write_text("Do x, and y\nDo z\n")
    (tmp_path / "category_2.csv").write_text("Do a\n")
    assert [b.prompt for b in load_behaviors("hexphi", str(tmp_path))] == ["Do x, and y", "Do z", "Do a"]
    assert [b.prompt for b in load_behaviors("advbench", str(tmp_path / "category_1.csv"))] == ["Do x, and y", "Do z"]


def test_conversations_as_harmful_hexphi_has_them(tmp_path):
    turns = [{"role": "user", "content": "Do x"}, {"role": "assistant", "content": "Step one"}]
    (tmp_path / "HEx-PHI.jsonl").write_text('{"instruction": "Do x"}\n')
    (tmp_path / "Harmful-HEx-PHI.jsonl").write_text(json.dumps(turns) + "\n")
    source = find_sources([str(tmp_path)])["hexphi"]
    assert load_behaviors("hexphi", source) == [Behavior("1", "Do x", "Step one", response="Step one")]
    (tmp_path / "Harmful-HEx-PHI.jsonl").write_text('[{"role": "user"}]\n')
    with pytest.raises(InputError, match="not a list of objects"):
        load_behaviors("hexphi", source)


def test_old_xstest_and_ids_that_occur_again(tmp_path):
    (tmp_path / "x.csv").write_text("id,prompt,type\nv1,a,homonyms\nv1,b,contrast_homonyms\n")
    found = load_behaviors("xstest", str(tmp_path / "x.csv"))
    assert [(b.id, b.harmful) for b in found] == [("v1", False), ("v1#2", True)]


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("xstest", "x.csv", "text,label\na,safe\n", "expected columns prompt, label or type, found text, label"),
        ("xstest", "x.csv", "prompt,label\na,maybe\n", "with the label 'maybe'"),
        ("beavertails", "b.json", '[{"prompt": "a", "is_safe": true}]', "expected columns prompt, response, is_safe"),
        ("alpaca", "a.json", '{"instruction": "x"}', "not a list of objects"),
        ("gsm8k", "g.jsonl", '{"question": 1\n', "not valid jsonl"),
        ("gsm8k", "g.parquet", "no", "not valid parquet"),
        ("alpaca", "a.json", "[]", "no rows of AlpacaEval"),
    ],
)
def test_wrong_formats_name_what_is_expected(tmp_path, name, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_behaviors(name, str(tmp_path / file))


def test_sources(tmp_path):
    for name in (
        "advbench_520.csv",
        "gsm8k_test.jsonl",
        "gsm8k_train.jsonl",
        "harmbench_targets_text.json",
        "HEx-PHI.csv",
        "x.jsonl",
    ):
        (tmp_path / name).write_text("x")
    found = find_sources([str(tmp_path), "alpaca=hub", f"sft={tmp_path / 'x.jsonl'}"])
    assert {name: Path(source).name for name, source in found.items()} == {
        "advbench": "advbench_520.csv",
        "gsm8k": "gsm8k_test.jsonl",
        "gsm8k-train": "gsm8k_train.jsonl",
        "sft": "x.jsonl",
        "hexphi": "HEx-PHI.csv",
        "alpaca": "hub",
    }
    with pytest.raises(UsageError, match="did you mean 'xstest'"):
        find_sources(["xtest=a.csv"])
    with pytest.raises(UsageError, match="pass NAME=FILE"):
        find_sources(["nowhere"])
    for given in (f"advbench={tmp_path / 'nope.csv'}", "sft=nobody/nope.jsonl"):
        with pytest.raises(UsageError, match="no such file"):
            find_sources([given])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="it has no data set; name files after advbench, harmbench"):
        find_sources([str(tmp_path / "empty")])


def test_the_hub_without_network(monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"XSTest from the hub .*pass a local file"):
        load_behaviors("xstest", "nobody/no-such-set")


def test_a_choice_is_spread_and_stable():
    behaviors = [Behavior(f"b{i}", "x") for i in range(200)]
    (few, none), (more, _) = choose(behaviors, 20), choose(behaviors, 50)
    assert len(few) == 20 and set(few) < set(more) and (few, none) == choose(behaviors, 20) == (few, 0)
    positions = [int(b.id[1:]) for b in few]
    assert positions == sorted(positions) and positions[-1] > 150 and positions[0] < 50
    assert choose(behaviors, None) == choose(behaviors, 999) == (behaviors, 0)


def test_a_choice_passes_over_what_the_model_has_no_room_for():
    behaviors = [Behavior(f"b{i}", "long" if i % 2 else "short") for i in range(200)]
    few, passed_over = choose(behaviors, 20, lambda b: b.prompt == "short")
    assert {b.prompt for b in few} == {"short"} and len(few) == 20 and 5 < passed_over < 40
    without = [b for b in choose(behaviors, 20 + passed_over)[0] if b.prompt == "short"]
    assert few == without  # the same draw without the long ones
    scarce, passed_over = choose(behaviors, 150, lambda b: b.prompt == "short")
    assert (len(scarce), passed_over) == (100, 100)
    assert choose(behaviors, 20, lambda b: False) == choose(behaviors, 20)


@pytest.mark.skipif(not Path(SHARED).is_dir(), reason=f"no data sets in {SHARED}; SRP_EVAL_DATA names another folder")
def test_public_files_load_in_full():
    sizes = {name: len(load_behaviors(name, source)) for name, source in find_sources([SHARED]).items()}
    expected = {"advbench": 520, "harmbench": 400, "xstest": 450, "gsm8k": 1319, "gsm8k-train": 2000, "alpaca": 300}
    assert {name: sizes[name] for name in expected if name in sizes} == {n: expected[n] for n in expected if n in sizes}
    assert len(sizes) == len(list(Path(SHARED).iterdir()))  # every file of it
