"""The records of a run, finished or not, each with what its training cost."""

import json
import re
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError

_ITERATIONS = re.compile(r"iteration +\d+/ *(\d+)")


def collect(out: Path) -> list[dict[str, Any]]:
    """Every record under OUT, in the order of the folders.

    Raises:
        InputError: when there are none.
    """
    paths = sorted(out.glob("seed*/*/*/record.json"))
    if not paths:
        raise InputError(f"{out}: no records yet; `srp world run` writes them, the first after some minutes")
    return [read_record(out, path) for path in paths]


def read_record(out: Path, path: Path) -> dict[str, Any]:
    """A record with its `training`: steps, tokens and CPU seconds; None where its model is another's."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**record, "training": _training(out / "steps" / path.parent.relative_to(out))}


def _training(steps: Path) -> dict[str, float] | None:
    marker, log = steps / "train.json", steps / "train.log"
    state = json.loads(marker.read_text()) if marker.exists() else {}
    found = _ITERATIONS.findall(log.read_text(errors="replace")) if log.exists() else []
    if state.get("state") != "done" or not found:
        return None
    flags = state["command"]
    sequences, length = (int(flags[flags.index(flag) + 1]) for flag in ("--global-batch-size", "--seq-length"))
    iterations = int(found[-1])
    return {"steps": iterations, "tokens": iterations * sequences * length, "cpu_s": state["cpu_seconds"]}
