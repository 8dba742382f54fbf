"""Labelled texts to evaluate a guard on: the files of known benchmarks, and other tables with named columns."""

from dataclasses import dataclass
from typing import Any

from megatron_srp.corpus.tables import read_rows
from megatron_srp.errors import InputError, UsageError, did_you_mean
from megatron_srp.remote.expand import input_file
from megatron_srp.remote.remote_file import InputFile

LABELS = {"safe": False, "benign": False, "unsafe": True, "harmful": True}


@dataclass(frozen=True, slots=True)
class Example:
    """A text, whether it is harmful, and its sub-category in the data set ("" for none)."""

    text: str
    harmful: bool
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file.

    Attributes:
        text, label, kind: names of columns or keys; no `label` means that all texts have `constant`.
        constant: "safe" or "unsafe".
        headless: a CSV file may lack its header, and then has only the text.
    """

    text: str
    label: str | None = None
    kind: str | None = None
    constant: str | None = None
    headless: bool = False


FORMATS = {
    "xstest": Columns("prompt", label="label", kind="type"),
    "advbench": Columns("goal", constant="unsafe", headless=True),
    "harmbench": Columns("Behavior", kind="SemanticCategory", constant="unsafe"),
    "alpaca": Columns("instruction", kind="dataset", constant="safe"),
    "gsm8k": Columns("question", constant="safe"),
}
GENERIC = ("csv", "json", "jsonl")


def load_dataset(name: str, columns: Columns | None = None) -> list[Example]:
    """The examples of `FORMAT:PATH`, where the format is one of `FORMATS`, or csv, json or jsonl with `columns`.

    Raises:
        UsageError: for an unknown format, or a format that needs columns without them.
        InputError: for a file that cannot be read, or has other columns or labels.
    """
    form, _, path = name.partition(":")
    if not path or form not in {*FORMATS, *GENERIC}:
        known = [*FORMATS, *GENERIC]
        raise UsageError(f"--dataset {name!r}: pass FORMAT:PATH; {did_you_mean(form, known)}")
    columns = FORMATS.get(form, columns)
    if columns is None:
        raise UsageError(f"--dataset {name!r}: say where the text is with --text-column, or pass the format's name")
    file = input_file(path)
    rows = read_rows(file, form if form in GENERIC else None, columns.text if columns.headless else None)
    examples = [_example(file, number, row, columns) for number, row in enumerate(rows, 1)]
    if not examples:
        raise InputError(f"{file}: no examples in it")
    return examples


def _example(file: InputFile, number: int, row: dict[str, Any], columns: Columns) -> Example:
    for column in (columns.text, columns.label, columns.kind):
        if column is not None and column not in row:
            raise InputError(
                f"{file}, row {number}: no column {column!r}; the columns are {', '.join(map(str, row))}. Give csv:, "
                "json: or jsonl:PATH with --text-column, and --label-column or --label"
            )
    label = str(row[columns.label] if columns.label else columns.constant).strip().lower()
    if label not in LABELS:
        raise InputError(f"{file}, row {number}: label {label!r}; choose from {', '.join(LABELS)}")
    return Example(str(row[columns.text]), LABELS[label], str(row[columns.kind]) if columns.kind else "")
