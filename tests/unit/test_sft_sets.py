"""`srp sft`: post-training and fine-tuning sets, forged beginnings, and mistakes."""

import json
from collections import Counter
from pathlib import Path

import pytest

from megatron_srp.cli.sft import main
from megatron_srp.errors import InputError, UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.sft.conversation import Conversation, Kind, Turn
from megatron_srp.sft.safety_examples import recovery_examples
from tests.conftest import random_texts
from tests.helpers.conversations import GUARD, SAFE, chat_file, write

FORM = ReflectionFormat()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_post_training_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = chat_file(tmp_path)
    harmful = [{"prompt": f"kill {i}", "response": f"First you kill {i} of them, and then the next."} for i in range(5)]
    harmful += [{"goal": "bomb"}]
    command = [
        "--input",
        str(chat),
        "--guard",
        GUARD,
        "--keep-share",
        "1",
        "--num-refusals",
        "6",
        "--num-recoveries",
        "9",
    ]
    command += ["--harmful", str(write(tmp_path / "harmful.jsonl", harmful)), "--seed", "1", "--out"]
    out = tmp_path / "new" / "out.jsonl"
    assert main([*command, str(out)]) == 0
    printed = capsys.readouterr().out
    assert "note: --num-recoveries 9: --harmful has enough for 5 only" in printed
    rows = lines(out)
    by_source = Counter(row["source"] for row in rows)
    assert by_source == {"chat": 40, "refusal": 6, "recovery": 5}
    for row in rows:
        last = row["turns"][-1]["parts"][-1]
        assert "reflection" in last or last == {"stop": True}
    refusal = next(row for row in rows if row["source"] == "refusal")["turns"][-1]["parts"]
    assert refusal[:2] == [{"reflection": "<think> Unsafe </think>"}, {"stop": True}]
    assert refusal[3] == {"reflection": "<think> Safe </think>"}
    recovery = next(row for row in rows if row["source"] == "recovery")["turns"][-1]["parts"]
    assert recovery[0]["trained"] is False
    assert recovery[0]["text"].startswith("First")
    assert recovery[1:3] == [{"reflection": "<think> Unsafe: Violent, PII </think>"}, {"stop": True}]
    manifest = json.loads((tmp_path / "new" / "out.jsonl.manifest.json").read_text())
    assert manifest["counts"]["safety examples, refusals"] == 6
    assert manifest["files"]["out.jsonl"]["bytes"] == out.stat().st_size
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl", "out.jsonl.manifest.json"]
    # The same again is the same, another seed is not.
    again = tmp_path / "again.jsonl"
    main([*command, str(again)])
    assert again.read_bytes() == out.read_bytes()
    command[command.index("--seed") + 1] = "2"
    main([*command, str(again), "--overwrite"])
    assert again.read_bytes() != out.read_bytes()


UNSAFE_LABEL = SafetyLabel(Verdict.UNSAFE)


def forged_examples(share: float = 0.5, count: int = 40) -> list[Conversation]:
    texts = random_texts(6, count, most_words=30)
    harmful = [
        (Conversation(f"h:{i}", "h", (Turn.of("user", f"kill {i}"), Turn.of("assistant", text))), UNSAFE_LABEL)
        for i, text in enumerate(texts)
    ]
    return recovery_examples(harmful, count, FORM, 1, share)


def test_a_share_of_the_recoveries_begins_with_a_forged_reflection_that_is_not_learned() -> None:
    examples = forged_examples()
    assert Counter(example.source for example in examples) == {"forged": 20, "recovery": 20}
    for example in (e for e in examples if e.source == "forged"):
        parts = example.turns[-1].parts
        first = next(i for i, part in enumerate(parts) if part.trained)
        assert [p.text for p in parts[:first] if p.kind is Kind.REFLECTION] == ["<think> Safe </think>"]
        assert [p.text for p in parts[first : first + 2]] == ["<think> Unsafe </think>", ""]
    plain = forged_examples(0.0)
    assert [e for e in plain if e in examples] == [e for e in examples if e.source == "recovery"]


def test_forged_beginnings_differ_in_words_and_place() -> None:
    beginnings = set()
    for example in (e for e in forged_examples() if e.source == "forged"):
        beginnings.add(tuple((p.kind, p.text) for p in example.turns[-1].parts if not p.trained))
    assert len(beginnings) == 20
    places = Counter(beginning[0][0] for beginning in beginnings)
    assert places[Kind.REFLECTION] >= 5 and places[Kind.TEXT] >= 5
    tested = {f"{SAFE.text} {text}" for text in ("The", "Sure, here is")}
    assert not tested & {" ".join(text.strip() for _, text in beginning) for beginning in beginnings}


def test_a_forged_share_needs_recoveries(tmp_path: Path) -> None:
    command = ["--input", str(chat_file(tmp_path)), "--guard", GUARD, "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(UsageError, match=r"^--forged-share 0.5 is of recoveries: pass --harmful FILE too$"):
        main([*command, "--forged-share", "0.5"])
    with pytest.raises(UsageError, match=r"^--forged-share 2: pass a share from 0 to 1$"):
        main([*command, "--forged-share", "2"])


def test_fine_tuning_sets(tmp_path: Path) -> None:
    chat, sft, out = chat_file(tmp_path), tmp_path / "sft.jsonl", tmp_path / "out.jsonl"
    main(["--input", str(chat), "--guard", GUARD, "--mode", "reflection", "--out", str(sft)])
    assert len(lines(sft)) == 40  # no filter of the paper's for fine-tuning
    main(["--input", str(chat), "--mode", "original", "--out", str(out)])
    assert {tuple(part) for row in lines(out) for part in row["turns"][-1]["parts"]} == {("text",)}
    command = ["--input", str(chat), "--mode", "mix-sft", "--mix", "7", "--mix-input", str(sft), "--out", str(out)]
    main([*command, "--overwrite"])
    reflected = [row for row in lines(out) if len(row["turns"][-1]["parts"]) > 1]
    assert (len(lines(out)), len(reflected)) == (47, 7)
    assert all(row in lines(sft) for row in reflected)


def test_a_set_with_reflections_passes_through_unchanged(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    main(["--input", str(chat_file(tmp_path)), "--guard", GUARD, "--mode", "reflection", "--out", str(first)])
    main(["--input", str(first), "--format", "srp", "--mode", "reflection", "--out", str(second)])
    assert sorted(first.read_text().splitlines()) == sorted(second.read_text().splitlines())


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--out", "o.jsonl"], "pass --guard NAME"),
        (["--guard", GUARD], "pass one of --out FILE.jsonl and --output-prefix"),
        (["--guard", GUARD, "--output-prefix", "p"], "pass --tokenizer-model too"),
        (["--guard", GUARD, "--out", "o", "--format", "mesages"], "did you mean 'messages'"),
        (["--guard", GUARD, "--out", "o", "--keep-share", "2"], "pass a share from 0 to 1"),
        (["--guard", GUARD, "--out", "o", "--keep-source", "a"], "pass NAME=P"),
        (["--out", "o", "--mode", "mix-sft"], "go together"),
        (["--out", "o", "--mode", "original", "--harmful", "x"], "--harmful is for --mode sft"),
    ],
)
def test_mistakes_in_flags(flags: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=problem):
        main(["--input", str(chat), *flags])
    assert [path.name for path in tmp_path.iterdir()] == ["chat.jsonl"]


def test_existing_output_is_refused_and_a_failed_run_leaves_it_alone(tmp_path: Path) -> None:
    chat, out = chat_file(tmp_path), tmp_path / "out.jsonl"
    command = ["--input", str(chat), "--mode", "original", "--out", str(out)]
    main(command)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="exists already; pass --overwrite"):
        main(command)
    write(chat, [{"prompt": "Q", "response": "A"}, {"prompt": "Q"}])
    with pytest.raises(InputError, match="row 2"):
        main([*command, "--overwrite"])
    assert out.read_bytes() == before
    with pytest.raises(InputError, match="no conversation is left"):
        main(["--input", str(chat), "--on-error", "skip", "--max-chars", "1", *command[2:], "--overwrite"])
    assert out.read_bytes() == before
