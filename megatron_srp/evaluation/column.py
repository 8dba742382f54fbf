"""What a column of the tables is, and what it takes to run one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import TYPE_CHECKING, Any, Protocol

from megatron_srp.evaluation.behaviors import Behavior, choose, is_held_out, load_behaviors
from megatron_srp.evaluation.judges import JudgePanel
from megatron_srp.evaluation.progress import Progress
from megatron_srp.evaluation.results import ResultStore
from megatron_srp.evaluation.types import AttackCase, Response
from megatron_srp.statistics.paired import Estimate

if TYPE_CHECKING:
    from megatron_srp.annotation.base import Guard
    from megatron_srp.evaluation.hf_target import HFTarget


class NotRun(Exception):
    """A column that cannot be run here; the reason goes into the report."""


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A column as a suite's file describes it.

    Attributes:
        kind: one of `KINDS` in `columns`.
        data: names of data sets; the first that has a source is used.
        options: further options of the kind.
        paper: the paper's figures: {row: {measure: value}}.
    """

    name: str
    kind: str
    data: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    better: str = "lower"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a column.

    Attributes:
        estimate: in `unit`; None where it was not measured, for the reason in `not_run`.
        failed: cases without an opinion, which do not count.
        better: lower or higher, where it differs from the column's.
        label: what to call it in a report, where that is not its name.
    """

    name: str
    estimate: Estimate | None
    unit: str = "%"
    not_run: str = ""
    failed: int = 0
    better: str = ""
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        e = self.estimate
        scale = 100 if self.unit == "%" else 1
        values = {
            n: None if e is None or isnan(v := getattr(e, n)) else round(scale * v, 4) for n in ("value", "low", "high")
        }
        own = {"better": self.better} if self.better else {}
        own |= {"label": self.label} if self.label else {}
        return {"name": self.name, "unit": self.unit, **own, **values, "n": e.n if e else 0, "failed": self.failed} | (
            {"not_run": self.not_run} if self.not_run else {}
        )


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case, for the browsable list and for comparisons.

    Attributes:
        outcomes: by measure, the outcome that is counted: True or False, or a number.
    """

    id: str
    case: AttackCase
    response: Response | None
    outcomes: Mapping[str, bool | float | None]
    category: str = ""
    harmful: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """The result of a column. `not_run`: why there is none. `facts`: what else is worth reporting, plain JSON."""

    spec: ColumnSpec
    measures: Sequence[Measure] = ()
    cases: Sequence[CaseResult] = ()
    not_run: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Context:
    """What columns run with.

    Attributes:
        sources: of data sets, by name.
        limit: maximum cases in this column.
        limit_given: the user's, which holds for examples to train on as well.
        guard: a safety classifier to compare the model's own reflections with, and why it is missing.
        seed: of attacks.
        calibration_data, calibration_cases: data sets, half of whose benign prompts are kept for the calibration of
            fine-tuned models, and at most how many of them are used.
        threshold_given: whether the user gave a threshold, which holds for fine-tuned models too.
        done: the columns before this one.
    """

    target: "HFTarget"
    model: str
    store: ResultStore
    panel: JudgePanel
    progress: Progress
    sources: Mapping[str, str]
    limit: int | None = None
    limit_given: int | None = None
    guard: "Guard | None" = None
    seed: int = 0
    lm_eval: Mapping[str, Any] = field(default_factory=dict)
    calibration_data: Sequence[str] = ()
    calibration_cases: int = 400
    threshold_given: bool = False
    done: list[ColumnResult] = field(default_factory=list)

    @property
    def recalibrates(self) -> bool:
        """Whether fine-tuned models get a threshold of their own: there is one, and the user did not set it."""
        policy = self.target.options.policy
        forced = policy.reflect_every or policy.reflect_prompt
        return bool(forced and self.calibration_data and not self.threshold_given)

    def behaviors(self, spec: ColumnSpec) -> tuple[dict[str, Any], list[Behavior]]:
        """Behaviors of the column's data, and what the report says about it; raises NotRun without a source."""
        name = self.source_of(spec.data)
        found = load_behaviors(name, self.sources[name])
        if self.recalibrates and name in self.calibration_data:
            found = [behavior for behavior in found if behavior.harmful or not is_held_out(behavior)]
        if "harmful" in spec.options:
            found = [behavior for behavior in found if behavior.harmful is spec.options["harmful"]]
        with_response = spec.options.get("of") == "response"
        chosen, passed_over = choose(
            found, self.limit, lambda b: self.target.has_room_for(b.prompt + b.response * with_response)
        )
        return {"data": name} | ({"passed_over_as_too_long": passed_over} if passed_over else {}), chosen

    def source_of(self, names: Sequence[str], wanted: str = "data") -> str:
        """The first of these data sets that has a source; raises NotRun where none has."""
        name = next((name for name in names if name in self.sources), None)
        if name is None:
            raise NotRun(f"no {wanted}: pass --data {' or '.join(f'{name}=FILE' for name in names)}")
        return name


class Column(Protocol):
    """Runs a column: a function in a module of `columns`."""

    def __call__(self, spec: ColumnSpec, context: Context) -> ColumnResult: ...
