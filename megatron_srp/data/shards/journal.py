"""The journal of a half-done output: its settings, its progress, and what is left to finish it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import digest, write_json


def write_journal(path: Path, journal: dict[str, Any]) -> None:
    """Replace the journal at `path`, atomically and durably."""
    write_json(path, {**journal, "checksum": digest(journal)})


def read_journal(path: Path) -> dict[str, Any]:
    """What `write_journal` wrote; raises InputError for anything else."""
    try:
        journal = orjson.loads(path.read_bytes())
        intact = journal.pop("checksum") == digest(journal)
    except (ValueError, KeyError, AttributeError, TypeError):
        intact = False
    if not intact:
        raise InputError(f"{path}: the journal of this half-done run is damaged; pass --overwrite to start over")
    return journal


def refuse_other_settings(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises UsageError that names the first difference between the settings."""
    if old.get("on_error") == "stop":  # so far no row was malformed: the result is the one of a run that skips
        old = old | {"on_error": new.get("on_error")}
    for name, before, now in _differences(old, new):
        raise UsageError(
            f"{folder} holds a half-done run with other settings: {name} was {_short(before)}, "
            f"now {_short(now)}; use the old settings, or pass --overwrite to start over"
        )


def first_change(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first difference between the settings of two runs in words; "" where there is none."""
    for name, before, now in _differences(old, new):
        if name.startswith("annotations.edits"):
            return "verdicts of the store have been changed since"
        return f"made with other settings: {name} was {_short(before)}, now {_short(now)}"
    return ""


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, now) in enumerate(zip(old, new, strict=True)):
            which = now["file"] if isinstance(now, dict) and "file" in now else i + 1
            yield from _differences(before, now, f"{name}[{which}]")
    elif old != new:
        yield name, old, new


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 120 else f"{text[:117]}..."
