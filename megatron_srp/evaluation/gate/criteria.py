"""Criteria of a release, as data: which measure of which column, and its limit.

title: Release criteria
suite: gate                 # what is run where no evaluation is given
criteria:
  - column: prefill, guarded
    measure: heuristic
    most: 10                # or `least`; in the measure's unit
    bound: interval         # the 95% interval's worse end must keep the limit (the default), or `value`
    cases: 20               # the fewest cases that count as evidence (default 1)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from megatron_srp.errors import InputError, UsageError, did_you_mean

FOLDER = Path(__file__).parents[1] / "criteria"
BOUNDS = ("interval", "value")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One limit; exactly one of `most` and `least` is a number."""

    column: str
    measure: str
    most: float | None = None
    least: float | None = None
    bound: str = "interval"
    cases: int = 1

    @property
    def limit(self) -> float:
        found = self.least if self.most is None else self.most
        assert found is not None
        return found

    def describe(self) -> str:
        """The limit in words."""
        return f"{'at least' if self.most is None else 'at most'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Criteria:
    """All criteria of a file, and the suite that measures what they name."""

    source: str
    title: str
    suite: str
    criteria: Sequence[Criterion]

    def check_columns(self, columns: Sequence[str], where: str) -> None:
        """Raises UsageError for a criterion on a column that is not one of these, which `where` has."""
        for number, criterion in enumerate(self.criteria, 1):
            if criterion.column not in columns:
                raise UsageError(
                    f"{self.source}: criterion {number}: no column {criterion.column!r} in {where}; "
                    f"{did_you_mean(criterion.column, list(columns))}"
                )


def criteria_names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_criteria(name: str) -> Criteria:
    """The criteria of that name, or in a YAML file.

    Raises:
        UsageError: for an unknown name, or a criterion that is not one.
        InputError: for a file that does not hold criteria.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"--criteria {name!r}: pass a YAML file, or {did_you_mean(name, criteria_names())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    content = {"suite": "gate"} | content if isinstance(content, dict) else {}
    for key, kind, shape in (("title", str, "text"), ("suite", str, "name"), ("criteria", list, "list")):
        if not isinstance(content.get(key), kind):
            found = f"{key} is {content[key]!r}" if key in content else f"{key} is missing"
            raise InputError(f"{path}: {found}; it must be a {shape}")
    entries = content["criteria"]
    if not entries:
        raise InputError(f"{path}: no criteria, so every model would pass; name at least one")
    criteria = [_criterion(f"{path}: criterion {i}", e) for i, e in enumerate(entries, 1)]
    return Criteria(str(path), content["title"], content["suite"], criteria)


def _criterion(where: str, entry: Any) -> Criterion:
    known = [field.name for field in fields(Criterion)]
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where}: {entry!r}; give NAME: VALUE for {', '.join(known)}")
    for name in entry:
        if name not in known:
            raise UsageError(f"{where}: unknown {name!r}; {did_you_mean(str(name), known)}")
    if missing := [name for name in ("column", "measure") if not isinstance(entry.get(name), str)]:
        raise UsageError(f"{where}: no {missing[0]}; name one of the report's")
    limits = [entry[name] for name in ("most", "least") if name in entry]
    if len(limits) != 1 or type(limits[0]) not in (int, float):
        raise UsageError(f"{where}: give a number as `most` or as `least`, one of the two")
    if not 0 <= limits[0] < math.inf:  # measures are shares and losses: such a limit decides nothing
        raise UsageError(f"{where}: limit {limits[0]}; give a finite number of at least 0")
    if (bound := entry.get("bound", "interval")) not in BOUNDS:
        raise UsageError(f"{where}: bound {bound!r}; {did_you_mean(str(bound), list(BOUNDS))}")
    if type(cases := entry.get("cases", 1)) is not int or cases < 1:
        raise UsageError(f"{where}: cases {cases!r}; give a whole number of at least 1")
    return Criterion(**entry)
