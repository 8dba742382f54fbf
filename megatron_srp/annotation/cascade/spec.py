"""A cascade's file, and the file of its calibration.

FILE.calibration.json, which `srp calibrate` writes next to FILE.yaml:

    version       1
    threshold     the front settles what has a lower probability of harm
    target        it was chosen for
    sample        segments, harmful (to the back), missed (harmful, below the threshold), settled (below it)
    bound         of the miss rate, with the target's confidence
    front, back   the settings of the two guards; with others the threshold is void
    max_words     of a segment
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from megatron_srp.annotation.base import Guard, GuardOptions
from megatron_srp.annotation.cascade.bound import Choice, Target
from megatron_srp.annotation.guards.cascade import CascadeGuard
from megatron_srp.errors import InputError, OutputError, UsageError, did_you_mean
from megatron_srp.files import write_json

PREFIX = "cascade:"
VERSION = 1
DEFAULT_AUDIT = 0.005
LoadGuard = Callable[[str, GuardOptions], Guard]


@dataclass(frozen=True, slots=True)
class CascadeSpec:
    """A cascade's file: `front` and `back` are entries of guards, names and options."""

    path: Path
    front: Mapping[str, Any]
    back: Mapping[str, Any]
    target: Target
    audit: float

    @classmethod
    def load(cls, path: Path) -> "CascadeSpec":
        """Raises UsageError for a missing file, and for a mistake in it."""
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--guard {PREFIX}{path}: {error.strerror}; pass the YAML file of a cascade") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
        known = ["front", "back", "target", "audit"]
        if not isinstance(tree, dict) or not {"front", "back"} <= {*tree}:
            raise UsageError(
                f"{path}: not a cascade, which has a front and a back, such as `back: {{guard: qwen3guard}}`"
            )
        for name in tree:
            if name not in known:
                raise UsageError(f"{path}: a cascade has no field {name!r}; {did_you_mean(str(name), known)}")
        audit = tree.get("audit", DEFAULT_AUDIT)
        if not isinstance(audit, int | float) or not 0 <= audit <= 1:
            raise UsageError(f"{path}: audit is {audit!r}; give a share from 0 to 1, such as {DEFAULT_AUDIT}")
        return cls(path, _entry(path, tree, "front"), _entry(path, tree, "back"), _target(path, tree), float(audit))

    @property
    def calibration_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.calibration.json")

    def load_guards(self, load_guard: LoadGuard) -> tuple[Guard, Guard]:
        """Front and back, loaded."""
        with ExitStack() as stack:
            front = _load(self.front, load_guard)
            stack.callback(front.close)
            back = _load(self.back, load_guard)
            stack.pop_all()
        return front, back


def load_cascade(path: Path, load_guard: LoadGuard, audit: float | None = None) -> CascadeGuard:
    """The guard of a calibrated cascade.

    Args:
        audit: instead of the file's.

    Raises:
        UsageError: for a mistake in its file, and where it was calibrated with other guards, another target, or never.
    """
    spec = CascadeSpec.load(path)
    calibration = _read_calibration(spec)
    front, back = spec.load_guards(load_guard)
    try:
        _check_fits(spec, calibration, front, back)
    except UsageError:
        front.close()
        back.close()
        raise
    audit = spec.audit if audit is None else audit
    return CascadeGuard(front, back, spec.target, calibration["threshold"], audit, str(path))


def write_calibration(spec: CascadeSpec, choice: Choice, front: Guard, back: Guard, max_words: int) -> Path:
    """Write the calibration's file; returns its path."""
    sample = {
        "segments": choice.segments,
        "harmful": choice.harmful,
        "missed": choice.missed,
        "settled": choice.settled,
    }
    content = {
        "version": VERSION,
        "threshold": choice.threshold,
        "target": asdict(spec.target),
        "sample": sample,
        "bound": choice.bound,
        "front": front.settings,
        "back": back.settings,
        "max_words": max_words,
    }
    try:
        write_json(spec.calibration_path, content)
    except OSError as error:
        raise OutputError(f"{spec.calibration_path}: {error.strerror}") from None
    return spec.calibration_path


def _read_calibration(spec: CascadeSpec) -> dict[str, Any]:
    path, advice = spec.calibration_path, f"run `srp calibrate --guard {PREFIX}{spec.path} --input ...`"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != VERSION or not 0 <= float(found["threshold"]) <= 1:
            raise ValueError(f"version {found['version']}, threshold {found['threshold']}")
        return {"threshold": float(found["threshold"]), **{k: found[k] for k in ("target", "front", "back")}}
    except FileNotFoundError:
        raise UsageError(f"{spec.path} is not calibrated (no {path.name}); {advice} first") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a calibration, or damaged ({error}); {advice} again") from None


def _check_fits(spec: CascadeSpec, calibration: dict[str, Any], front: Guard, back: Guard) -> None:
    now = {"target": asdict(spec.target), "front": front.settings, "back": back.settings}
    for name, value in json.loads(json.dumps(now)).items():
        if value != calibration[name]:
            raise UsageError(
                f"{spec.path} was calibrated with another {name}: {calibration[name]!r}, now {value!r}; run "
                f"`srp calibrate --guard {PREFIX}{spec.path} --input ...` again"
            )


def _entry(path: Path, tree: Mapping[str, Any], which: str) -> Mapping[str, Any]:
    entry, known = (
        tree[which],
        ["guard", *(field.name for field in fields(GuardOptions) if field.name != "context_words")],
    )
    if not isinstance(entry, dict) or not isinstance(entry.get("guard"), str):
        raise UsageError(f"{path}: {which} is {entry!r}; write `{which}: {{guard: NAME}}`, with its options")
    for name in entry:
        if name not in known:
            raise UsageError(
                f"{path}: {which} {entry['guard']} has no option {name!r}; {did_you_mean(str(name), known)}"
            )
    return entry


def _target(path: Path, tree: Mapping[str, Any]) -> Target:
    given = tree.get("target", {})
    try:
        target = Target(**given)
        fine = 0 < target.miss < 1 and 0 < target.confidence < 1 and target.of in ("Unsafe", "harmful")
    except TypeError:
        fine = False
    if not fine:
        raise UsageError(
            f"{path}: target is {given!r}; write {{miss: 0.01, confidence: 0.95, of: Unsafe}}, shares between 0 and "
            "1 and Unsafe or harmful"
        )
    return target


def _load(entry: Mapping[str, Any], load_guard: LoadGuard) -> Guard:
    return load_guard(entry["guard"], GuardOptions(**{name: entry[name] for name in entry if name != "guard"}))
