"""Lines of JSON objects: what ends one is a line feed, and nothing else that Unicode takes for a line's end."""

import gzip
import json

import pytest

from megatron_srp.corpus.tables import read_rows
from megatron_srp.errors import InputError
from megatron_srp.generation.prompts_file import read_prompts
from megatron_srp.generation.records import read_records

SEPARATORS = "a\u2028b\u2029c\x85d\x0be\x1cf"


def test_separators_inside_a_text_end_no_line(tmp_path):
    records = [{"prompt": SEPARATORS}, {"prompt": "g"}]
    text = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (tmp_path / "plain.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("plain.jsonl", "packed.jsonl.gz"):
        assert list(read_prompts(tmp_path / name)) == records
    assert [where for where, _ in read_records(tmp_path / "plain.jsonl")] == [
        f"{tmp_path}/plain.jsonl:1",
        f"{tmp_path}/plain.jsonl:3",
    ]
    assert read_rows(tmp_path / "plain.jsonl") == records


def test_separators_in_a_csv_table_end_no_row(tmp_path):
    (tmp_path / "t.csv").write_text('prompt,kind\na\u2028b,x\n"c\nd",y\n', encoding="utf-8")
    assert read_rows(tmp_path / "t.csv") == [{"prompt": "a\u2028b", "kind": "x"}, {"prompt": "c\nd", "kind": "y"}]


@pytest.mark.parametrize("line", [b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"{", b"[]", b"7"])
def test_lines_that_are_no_object(line, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "a"}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"in\.jsonl:2: not "):
        list(read_prompts(tmp_path / "in.jsonl"))
