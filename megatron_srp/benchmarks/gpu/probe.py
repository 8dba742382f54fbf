"""Whether Transformer Engine loads here and computes what it should: each FP8 recipe, and attention.

A library for another driver, another cuDNN or without this GPU's machine code can fail in each of them on its own, or
end the whole process. What it ended in is known by the line written before; the other looks follow in a new process.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from megatron_srp.benchmarks.gpu.looks import ATTENTION, ENGINE, FP8, LINEAR, LOOKS
from megatron_srp.benchmarks.gpu.processes import ended
from megatron_srp.benchmarks.gpu.stages import Check, Machine, Outcome, Stage
from megatron_srp.training.checks.devices import Devices

_HIDES = 'import sys\n\nsys.modules["transformer_engine"] = None  # neither found nor imported\n'


def _work(check: Check, limit_s: float) -> Outcome:
    done, code = _look(check, time.monotonic() + limit_s)
    check.machine = conclude(done)
    if check.machine.no_transformer_engine:
        hide_transformer_engine(check)
    status, reason = ("ok", "") if "devices" in done.get("machine", {}) else ended(code, "")
    return Outcome("probe", status, "; ".join(filter(None, [reason, *_reasons(check.machine)])))


def _look(check: Check, end: float) -> tuple[dict[str, Any], int | None]:
    """Look until all is seen, in a new process after each failure; what was found, and the last exit code."""
    file = check.folder / "probe.jsonl"
    done: dict[str, Any] = {}
    code: int | None = 0
    seen = -1
    while code is not None and seen < len(done) < len(LOOKS) and "failed" not in done.get(ENGINE, {}):
        seen = len(done)
        left = [look for look in LOOKS if look not in done]
        command = [sys.executable, "-m", "megatron_srp.benchmarks.gpu.looks", file, *left]
        code = check.run(command, "probe.log", end - time.monotonic())
        done = read(file, ended(code, "")[1])
    return done, code


def _reasons(machine: Machine) -> list[str]:
    engine = [f"no Transformer Engine ({machine.no_transformer_engine})"] if machine.no_transformer_engine else []
    return engine + [f"{name}: {why}" for name, why in machine.wrong.items()]


STAGE = Stage("probe", 0, 90, _work)


def read(file: Path, ended_with: str) -> dict[str, Any]:
    """What was found, by look; of one that was begun and has not come back, how its process ended."""
    lines = file.read_text().splitlines() if file.exists() else []
    found: dict[str, Any] = {}
    for line in lines:
        look, result = json.loads(line)
        found[look] = result or {"failed": ended_with or "it ended the process"}
    return found


def conclude(done: dict[str, Any]) -> Machine:
    """What can be used here."""
    facts = done.get("machine", {})
    machine = Machine(
        versions=facts.get("versions", {}), looks={look: _words(done.get(look)) for look in LOOKS if look != "machine"}
    )
    if "devices" in facts:
        found = facts["devices"]
        found |= {"capability": tuple(found["capability"]), "cuda": tuple(found["cuda"])}
        machine.devices = Devices(**found)
    failed = {look: found["failed"] for look, found in done.items() if "failed" in found}
    machine.no_transformer_engine = failed.pop(ENGINE, "" if ENGINE in done else "the probe has not come to it")
    if machine.devices.count and not machine.no_transformer_engine:
        machine.no_transformer_engine = f"bf16: {failed[LINEAR]}" if LINEAR in failed else ""
        machine.wrong = {look: failed.get(look, "the probe has not come to it") for look in (ATTENTION, *FP8)}
        machine.wrong = {look: why for look, why in machine.wrong.items() if look in failed or look not in done}
    return machine


def _words(found: dict[str, Any] | None) -> str:
    """What a look has found, for a table."""
    if found is None:
        return "not looked at"
    if "version" in found:
        return f"{found['version']} loads"
    if "relative error" in found and "failed" not in found:
        return f"right: relative error {found['relative error']:.2g}"
    words = {"failed": "", "unknown": "not looked at: ", "left out": "not looked at: "}
    return next((f"{word}{found[key]}" for key, word in words.items() if key in found), "-")


def hide_transformer_engine(check: Check) -> None:
    """From what is started after: Megatron and others import it where it is found, and fail where it does not load."""
    folder = check.folder / "hide"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HIDES)
    check.environment["PYTHONPATH"] = ":".join(filter(None, [str(folder), check.environment.get("PYTHONPATH")]))
