"""A suite: which columns there are, as data (suites/*.yaml), and how they are run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from megatron_srp.errors import InputError, UsageError, did_you_mean
from megatron_srp.evaluation.behaviors import find_format
from megatron_srp.evaluation.column import ColumnResult, ColumnSpec, Context
from megatron_srp.evaluation.columns import KINDS, run_column

FOLDER = Path(__file__).with_name("suites")
_OWN = tuple(field.name for field in fields(ColumnSpec) if field.name != "options")


@dataclass(frozen=True, slots=True)
class Suite:
    """Columns in the order of the report.

    Attributes:
        limit: cases in a column at most, where neither the column nor the user says otherwise.
    """

    name: str
    title: str
    columns: tuple[ColumnSpec, ...]
    limit: int | None = None


def suite_names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """The suite of that name, or of a YAML file.

    Raises:
        UsageError: for a name that is none.
        InputError: for a file that does not describe a suite.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"--suite {name!r}: give a YAML file, or {did_you_mean(name, suite_names())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        columns = [column for entry in content["columns"] for column in _columns(dict(entry))]
        suite = Suite(path.stem, str(content["title"]), tuple(columns), content.get("limit"))
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: not a suite ({type(error).__name__}: {error}); see the suites of the package"
        ) from None
    _check(path, suite)
    return suite


def _columns(entry: dict[str, Any]) -> Iterator[ColumnSpec]:
    """One column for each of `defences`, or the one."""
    options: dict[str, Any] = {key: value for key, value in entry.items() if key not in _OWN}
    own: dict[str, Any] = {key: value for key, value in entry.items() if key in _OWN}
    spec = ColumnSpec(**own | {"data": tuple(own.get("data", ())), "options": options})
    defences = options.pop("defences", None)
    if not defences:
        yield spec
        return
    for defence in defences:
        name = spec.name if defence == defences[0] else f"{spec.name}, {defence}"
        # The paper measures the bare model.
        paper: Mapping[str, Any] = spec.paper if defence == "unguarded" else {}
        yield replace(spec, name=name, paper=paper, options={**options, "defence": defence})


def _check(path: Path, suite: Suite) -> None:
    names = [spec.name for spec in suite.columns]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: two columns are called {name!r}; give each a name of its own")
    for spec in suite.columns:
        if spec.kind not in KINDS:
            raise InputError(
                f"{path}: column {spec.name!r}: unknown kind {spec.kind!r}; {did_you_mean(spec.kind, list(KINDS))}"
            )
        for data in spec.data:
            find_format(data)


def run_suite(suite: Suite, context: Context, limit: int | None) -> list[ColumnResult]:
    """All columns, in order. `limit` is the user's; without it the column's own counts, then the suite's."""
    for spec in suite.columns:
        own = spec.options.get("limit", suite.limit)
        context.limit = own if limit is None else limit if own is None else min(limit, own)
        result = run_column(spec, context)
        context.done.append(result)
        context.progress.say(f"{spec.name}: {describe(result)}")
    return context.done


def describe(result: ColumnResult) -> str:
    """A column in one line."""
    if result.not_run:
        return f"not run: {result.not_run}"
    shown = []
    for measure in result.measures:
        found = measure.to_json()
        value = found["value"]
        shown.append(
            f"{measure.name} {'-' if value is None else f'{value:.4g}'}{'' if value is None else f' {measure.unit}'}"
        )
    return "; ".join(shown)
