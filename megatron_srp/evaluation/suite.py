"""A suite: its columns, as data (suites/*.yaml), and how they are run."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from megatron_srp.errors import InputError, UsageError, did_you_mean
from megatron_srp.evaluation.attack import ATTACKS, MissingPackage, load_attack
from megatron_srp.evaluation.behaviors import find_format
from megatron_srp.evaluation.column import ColumnResult, ColumnSpec, Context
from megatron_srp.evaluation.columns import KINDS, run_column
from megatron_srp.evaluation.judges import JUDGES
from megatron_srp.evaluation.types import Defence

FOLDER = Path(__file__).with_name("suites")
CALIBRATION_CASES = 400  # of these the 99th percentile has an upper bound
_OWN = tuple(field.name for field in fields(ColumnSpec) if field.name != "options")


@dataclass(frozen=True, slots=True)
class Suite:
    """Columns in the order of the report.

    Attributes:
        limit: maximum cases in a column, where neither the column nor the user says otherwise.
        calibration_data, calibration_cases: see `Context`.
    """

    name: str
    title: str
    columns: tuple[ColumnSpec, ...]
    limit: int | None = None
    calibration_data: tuple[str, ...] = ()
    calibration_cases: int = CALIBRATION_CASES


def suite_names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """The suite of that name, or in a YAML file.

    Raises:
        UsageError: for an unknown name, or options that a column does not take.
        InputError: for a file that does not describe a suite.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"--suite {name!r}: pass a YAML file, or {did_you_mean(name, suite_names())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        columns = [column for entry in content["columns"] for column in _columns(dict(entry))]
        own = content.get("calibration", {})
        calibration = tuple(own.get("data", ())), own.get("cases", CALIBRATION_CASES)
        suite = Suite(path.stem, str(content["title"]), tuple(columns), content.get("limit"), *calibration)
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
            raise InputError(f"{path}: two columns are called {name!r}; give each a different name")
    for name in suite.calibration_data:
        find_format(name)
    for spec in suite.columns:
        if spec.kind not in KINDS:
            raise InputError(
                f"{path}: column {spec.name!r}: unknown kind {spec.kind!r}; {did_you_mean(spec.kind, list(KINDS))}"
            )
        for data in spec.data:
            find_format(data)
        try:
            _check_options(spec)
        except UsageError as error:
            raise UsageError(f"{path}: column {spec.name!r}: {error}") from None


def _check_options(spec: ColumnSpec) -> None:
    """Constructs every attack once, so that a mistake shows now and not hours later when its column runs."""
    defence = str(spec.options.get("defence", Defence.UNGUARDED))
    if defence not in (names := [str(each) for each in Defence]):
        raise UsageError(f"unknown defence {defence!r}; {did_you_mean(defence, names)}")
    if spec.kind == "classification" and spec.options.get("of") not in ("prompt", "response"):
        raise UsageError("of: must be prompt or response, whichever is to be classified")
    _check_lengths(spec)
    if spec.kind not in ("attack", "finetune", "tampering"):
        return
    if "attack" not in spec.options:
        raise UsageError(f"it has no attack; {did_you_mean('', list(ATTACKS))}")
    options = spec.options.get("options") or {}
    if not isinstance(options, Mapping):
        raise UsageError(f"options {options!r}: give NAME: VALUE for each")
    if (then := spec.options.get("then")) and not hasattr(load_attack(str(then), seed=0), "cases"):
        raise UsageError(f"then {then!r}: name an attack that asks")
    given = {"seed": 0, **_without_sources(options)}
    rates = given["lr"] if spec.kind != "attack" and isinstance(given.get("lr"), list) else []
    with suppress(MissingPackage):  # its column reports it, and the others run
        for rate in rates[1:]:
            load_attack(str(spec.options["attack"]), **given | {"lr": rate})
        attack = load_attack(str(spec.options["attack"]), **given | ({"lr": rates[0]} if rates else {}))
        if hasattr(attack, "cases") is not (spec.kind == "attack"):
            other = "finetune or tampering" if spec.kind == "attack" else "attack"
            raise UsageError(f"attack {attack.name} is for columns of kind {other}")
        if spec.kind == "tampering" and attack.name == "finetune":
            raise UsageError("attack finetune is for columns of kind finetune")


def _check_lengths(spec: ColumnSpec) -> None:
    given = spec.options.get("max_new_tokens", 1)
    by_judge = given if isinstance(given, Mapping) and spec.kind in ("attack", "finetune") else {"": given}
    for judge, length in by_judge.items():
        if judge not in ("", *JUDGES):
            raise UsageError(f"max_new_tokens of judge {judge!r}; {did_you_mean(str(judge), list(JUDGES))}")
        if type(length) is not int or length < 1:
            raise UsageError(f"max_new_tokens {length!r}: must be a whole number of at least 1")


def _without_sources(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the name of a data set in place of its file."""
    named = {"data", "mix", "ordinary", "base"}
    return {
        name: str(value["source"])
        if name in named and isinstance(value, Mapping) and set(value) == {"source"}
        else value
        for name, value in options.items()
    }


def run_suite(suite: Suite, context: Context, limit: int | None) -> list[ColumnResult]:
    """All columns, in order. `limit` is the user's; without it the column's own applies, then the suite's."""
    context.limit_given = limit
    for number, spec in enumerate(suite.columns, 1):
        own = spec.options.get("limit", suite.limit)
        context.limit = own if limit is None else limit if own is None else min(limit, own)
        result = run_column(spec, context)
        context.done.append(result)
        context.progress.say(f"[{number}/{len(suite.columns)}] {spec.name}: {describe(result)}")
    return context.done


def describe(result: ColumnResult) -> str:
    """A column in one line."""
    if result.not_run:
        return f"not run: {result.not_run}"
    shown = []
    for measure in result.measures:
        value = measure.to_json()["value"]
        shown.append(f"{measure.label or measure.name} {'-' if value is None else f'{value:.4g} {measure.unit}'}")
    return "; ".join(shown)
