"""Chat data as others write it: every format, turns of tools, and what is no conversation."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srp.errors import InputError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import turns_from_json
from megatron_srp.sft.reader import ChatReader
from megatron_srp.sft.reflect import Reflector
from tests.conftest import KeywordGuard
from tests.helpers.conversations import SAFE, text, write

FORM = ReflectionFormat()


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
