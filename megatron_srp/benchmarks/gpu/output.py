"""What a check knows, as three files in `--out`: JSON, Markdown, and an archive of the logs."""

import dataclasses
import io
import json
import math
import tarfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megatron_srp.benchmarks.gpu.stages import Check, Plan
from megatron_srp.files import write_text

_LOG_BYTES = 4 << 20  # of each log its end


def save(check: Check, plan: Plan, argv: Sequence[str]) -> None:
    """Write all three. What cannot be written, on a full disk or for a bug in a report, costs nothing else."""
    out: Path = check.options.out
    writers: dict[str, Callable[[Path], object]] = {
        "gpu_check.json": lambda path: write_text(path, to_json(check, plan, argv)),
        "gpu_check.md": lambda path: write_text(path, markdown(check, plan)),
        "logs.tgz": lambda path: _archive(check.logs, path),
    }
    for name, write in writers.items():
        try:
            write(out / name)
        except Exception as error:  # the figures of the stages to come are worth more than a traceback
            print(f"warning: {out / name} is not written: {type(error).__name__}: {error}", flush=True)


def to_json(check: Check, plan: Plan, argv: Sequence[str]) -> str:
    content = {
        "command": ["tools/gpu_check.sh", *argv],
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": dataclasses.asdict(check.machine),
        "stages": [dataclasses.asdict(outcome) for outcome in check.outcomes],
        "comparison": _comparison(check, plan),
    }
    return json.dumps(_finite(content), indent=2, default=str) + "\n"


def _comparison(check: Check, plan: Plan) -> dict[str, Any]:
    try:
        return plan.comparison(check)
    except Exception as error:  # see `save`
        return {"failed": f"{type(error).__name__}: {error}"}


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: such a loss becomes its name."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def markdown(check: Check, plan: Plan) -> str:
    """The machine, what the plan has found, and what became of each stage."""
    machine = check.machine
    device = machine.devices.name or "a CPU: a rehearsal, its figures mean nothing"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    stages = [(outcome.stage, f"{outcome.seconds:.0f}", outcome.summary()) for outcome in check.outcomes]
    parts = [f"On {device}; {versions or 'versions unknown'}.", table(("probe", ""), list(machine.looks.items()))]
    parts += [plan.markdown(check).strip(), table(("stage", "s", ""), stages)]
    return "\n\n".join(filter(None, parts)) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; nothing where there are no rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines) if rows else ""


def cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _archive(logs: Path, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with tarfile.open(temporary, "w:gz", compresslevel=5) as archive:
        for log in sorted(logs.iterdir()):
            data = log.read_bytes()[-_LOG_BYTES:]
            entry = tarfile.TarInfo(f"logs/{log.name}")
            entry.size, entry.mtime = len(data), int(log.stat().st_mtime)
            archive.addfile(entry, io.BytesIO(data))
    temporary.replace(path)
