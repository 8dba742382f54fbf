"""Conversations with reflections: formats in, what is put where, what is dropped, and what is refused."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.cli.sft import main
from megatron_srp.errors import InputError, UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.sft.conversation import STOP, Conversation, Kind, Part, Turn, turns_from_json
from megatron_srp.sft.filters import Filters, draw
from megatron_srp.sft.reader import ChatReader
from megatron_srp.sft.reflect import Reflector
from megatron_srp.sft.safety_examples import recovery_examples
from tests.conftest import KeywordGuard, random_texts

GUARD = "python:tests.conftest:KeywordGuard"
FORM = ReflectionFormat()
SAFE = Part(Kind.REFLECTION, "<think> Safe </think>")
UNSAFE = Part(Kind.REFLECTION, "<think> Unsafe: Violent, PII </think>")


def text(words: str) -> Part:
    return Part(Kind.TEXT, words)


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def reflect(*turns: tuple[str, str], max_words: int = 100) -> tuple[tuple[Part, ...], ...]:
    conversation = Conversation("c", "s", tuple(Turn.of(*turn) for turn in turns))
    (reflected,) = Reflector(KeywordGuard(), FORM, max_words)([conversation])
    assert [turn.text for turn in reflected.turns] == [said for _, said in turns]
    return tuple(turn.parts for turn in reflected.turns if turn.role == "assistant")


ROWS = {
    "messages": {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "A"},
        ]
    },
    "sharegpt": {
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "Q"},
            {"from": "gpt", "value": "A"},
        ]
    },
    "alpaca": {"instruction": "Q", "input": "", "output": "A"},
    "pairs": {"prompt": "Q", "response": "A"},
    "gsm8k": {"question": "Q", "answer": "A"},
    "dolly": {"instruction": "Q", "context": "", "response": "A", "category": "open_qa"},
    "messages under another key": {
        "conversations": [{"role": "user", "content": "Q"}, {"role": "model", "content": "A"}]
    },
    "messages in a string": {"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'},
    "prompt and completion as messages": {
        "prompt": [{"role": "user", "content": "Q"}],
        "completion": [{"role": "assistant", "content": "A"}],
    },
    "a list and a text": {"prompt": [{"role": "user", "content": "Q"}], "response": "A"},
    "content in parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Q"}]},
            {"role": "assistant", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "A"}]},
        ]
    },
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("parquet", [False, True])
def test_every_format_is_told_from_its_keys(name: str, parquet: bool, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    if parquet:
        pq.write_table(pa.Table.from_pylist([ROWS[name]]), path)
    else:
        write(path, [ROWS[name]])
    (conversation,) = ChatReader(FORM).read([path])
    system = (("system", "S"),) if name in ("messages", "sharegpt") else ()
    assert tuple((turn.role, turn.text) for turn in conversation.turns) == (*system, ("user", "Q"), ("assistant", "A"))
    assert (conversation.id, conversation.source) == ("chat:1", "chat")


CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}]
WITH_TOOLS = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "content": "kill no rain"},
    {"role": "assistant", "content": "No."},
]


def test_turns_of_tools_are_context(tmp_path: Path) -> None:
    (conversation,) = ChatReader(FORM).read([write(tmp_path / "chat.jsonl", [{"messages": WITH_TOOLS}])])
    assert [turn.role for turn in conversation.turns] == ["system", "user", "call", "tool", "assistant"]
    assert json.loads(conversation.turns[2].text) == {"content": None, "tool_calls": CALLS}
    (reflected,) = Reflector(KeywordGuard(), FORM)([conversation])
    assert reflected.turns[:4] == conversation.turns[:4]
    assert reflected.turns[4].parts == (SAFE, text("No."), SAFE)  # the prompt is the user's, not the tool's
    assert turns_from_json(json.loads(reflected.to_json())["turns"], FORM) == list(reflected.turns)


@pytest.mark.parametrize(
    ("format", "context", "answer"), [("alpaca", "input", "output"), ("dolly", "context", "response")]
)
def test_what_an_instruction_is_about_follows_it(format: str, context: str, answer: str, tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", context: extra, answer: "2"} for extra in ("1 1", " ", None)]
    read = ChatReader(FORM, format).read([write(tmp_path / "a.jsonl", rows)])
    assert [conversation.turns[0].text for conversation in read] == ["Add.\n\n1 1", "Add.", "Add."]


def test_the_input_of_alpaca_follows_the_instruction(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"instruction": "Add.", "input": "1 1", "output": "2", "dataset": "sums"}])
    (conversation,) = ChatReader(FORM).read([path])
    assert (conversation.turns[0].text, conversation.source) == ("Add.\n\n1 1", "sums")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "x"}, "no chat format has the keys 'text'"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "the conversation has no assistant turn"),
        ({"prompt": "Q", "response": " "}, "an assistant turn is empty"),
        ({"prompt": "Q", "response": 3}, "'response' is int, not a string"),
        ({"messages": [{"role": "critic", "content": "Q"}]}, "unknown role 'critic'"),
        ({"messages": "x"}, "'messages' is a text, not a list"),
        ({"messages": "[1]"}, "'messages' is not a list of objects"),
        ({"prompt": [{"role": "user"}], "completion": "A"}, "'content' is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part of type 'image_url'"),
        ({"messages": [{"role": "user", "content": ["Q"]}]}, "a part of type 'str'"),
        ({"instruction": "Q", "context": "C"}, "no chat format has the keys 'instruction', 'context'"),
        ({"turns": [{"role": "assistant", "parts": [{"reflection": "<think> Fine </think>"}]}]}, "is not a reflection"),
        ({"turns": [{"role": "assistant", "parts": [{"stop": 1}]}]}, "'stop' is true"),
        ([1], "expected a JSON object"),
    ],
)
def test_what_is_no_conversation_is_refused_or_counted(row: object, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path / "chat.jsonl", [row])
    with pytest.raises(InputError, match=r"chat\.jsonl, row 1: .*--on-error skip") as error:
        list(ChatReader(FORM).read([path]))
    assert problem in str(error.value)
    reader = ChatReader(FORM, skip_errors=True)
    assert list(reader.read([path])) == []
    assert reader.counts["dropped: not a conversation"] == 1
    assert problem in reader.errors[0]


@pytest.mark.parametrize("odd", ["NaN", "[-Infinity, 1e400]", '"\\\\ud800"'])
def test_odd_values_that_nobody_asked_for_do_not_lose_a_conversation(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text('{"prompt": "Q", "response": "A", "score": ' + odd + "}\n")
    (conversation,) = ChatReader(FORM).read([path])
    assert [turn.text for turn in conversation.turns] == ["Q", "A"]


@pytest.mark.parametrize("key", ["prompt", "response", "source"])
def test_half_a_character_in_what_is_said_is_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    row = {"prompt": "Q", "response": "A"} | {key: "x\ud800"}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="row 1: a lone surrogate"):
        list(ChatReader(FORM).read([path]))


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array(["Q"]), pa.array(["A"]), pa.array(["B"])]
    pq.write_table(pa.Table.from_arrays(columns, ["prompt", "response", "response"]), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="2 columns are called 'response'; rename"):
        list(ChatReader(FORM, skip_errors=True).read([tmp_path / "c.parquet"]))


def test_a_prompt_without_answer_at_the_end_is_cut_off_and_counted(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    reader = ChatReader(FORM)
    (conversation,) = reader.read([write(tmp_path / "c.jsonl", [{"messages": turns}])])
    assert [turn.role for turn in conversation.turns] == ["user", "assistant"]
    assert reader.counts["turns cut off after the last response"] == 1


def test_the_prompt_is_judged_first_then_every_segment() -> None:
    (parts,) = reflect(("user", "Hello?"), ("assistant", "One two three. Four five six. Seven"), max_words=3)
    assert parts == (SAFE, text("One two three."), SAFE, text(" Four five six."), SAFE, text(" Seven"), SAFE)


def test_a_stop_follows_what_is_not_safe_and_the_text_goes_on() -> None:
    (parts,) = reflect(("user", "How to kill?"), ("assistant", "A bomb is. No more now. "), max_words=3)
    controversial = Part(Kind.REFLECTION, "<think> Controversial: Unethical Acts </think>")
    assert parts == (UNSAFE, STOP, text("A bomb is."), controversial, STOP, text(" No more now. "), SAFE)


def test_every_response_has_the_reflection_of_its_own_prompt() -> None:
    said = (
        ("system", "kill"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "kill"),
        ("user", "c"),
        ("assistant", "d"),
        ("assistant", "e"),
    )
    assert reflect(*said) == ((SAFE, text("b"), SAFE), (UNSAFE, STOP, text("d"), SAFE), (text("e"), SAFE))


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1).filter(lambda t: t.strip() and "think>" not in t), st.integers(1, 5))
def test_nothing_of_a_response_is_lost(response: str, max_words: int) -> None:
    (parts,) = reflect(("user", "Q"), ("assistant", response), max_words=max_words)  # compares the texts
    assert parts[-1].kind is not Kind.TEXT
    texts = [i for i, part in enumerate(parts) if part.kind is Kind.TEXT]
    assert all(parts[i + 1].kind is Kind.REFLECTION for i in texts)


def test_json_gives_back_what_was_written() -> None:
    parts = (UNSAFE, STOP, Part(Kind.TEXT, "<|endoftext|> <think> Safe </think>", trained=False), SAFE)
    conversation = Conversation("i", "s", (Turn.of("user", "<|endoftext|>"), Turn("assistant", parts)))
    read = turns_from_json(json.loads(conversation.to_json())["turns"], FORM)
    assert tuple(read) == conversation.turns


def test_a_forged_reflection_is_kept_in_a_prompt_and_dropped_in_a_response() -> None:
    def conversation(prompt: str, response: str) -> Conversation:
        return Conversation("i", "s", (Turn.of("user", prompt), Turn.of("assistant", response)))

    filters = Filters(FORM)
    good = conversation("a <think> Safe </think>", "b <|endoftext|>")
    forged = [conversation("a", "b <think> Safe"), conversation("a", "b </think>")]
    assert list(filters([good, *forged])) == [good]
    assert filters.counts == {
        "dropped: a response contains <think> or </think> as text": 2,
        "prompts that imitate reflections, kept as text": 1,
    }


def test_sources_are_sampled_and_length_is_bounded() -> None:
    def conversation(i: int, source: str, length: int = 10) -> Conversation:
        return Conversation(f"f:{i}", source, (Turn.of("user", "a"), Turn.of("assistant", "b" * (length - 1))))

    given_ = [conversation(i, source) for i in range(3000) for source in ("x/WildJailbreak_v2", "other")]
    filters = Filters(FORM, 10, {"wildjailbreak": 0.2}, 0.5, seed=3)
    kept = Counter(c.source for c in filters([*given_, conversation(1, "other", 11)]))
    assert 500 < kept["x/WildJailbreak_v2"] < 700
    assert 1400 < kept["other"] < 1600
    assert filters.counts["dropped: longer than 10 characters"] == 1
    assert sum(kept.values()) + sum(filters.counts.values()) == 6001
    # What is kept depends on no other conversation.
    alone = [c for c in given_ if list(Filters(FORM, 10, {"wildjailbreak": 0.2}, 0.5, seed=3)([c]))]
    assert Counter(c.source for c in alone) == kept
    assert draw(3, "f:1") != draw(4, "f:1")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def chat_file(folder: Path, n: int = 40) -> Path:
    texts = random_texts(5, n, most_words=30)
    return write(folder / "chat.jsonl", [{"prompt": f"Q{i}?", "response": t} for i, t in enumerate(texts)])


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
