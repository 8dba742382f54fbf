"""What a plan is made of: stages, each with the least and the most seconds it needs, and what they leave."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from megatron_srp.benchmarks.gpu.janitor import MARK
from megatron_srp.benchmarks.gpu.processes import Command, ended, run_together
from megatron_srp.errors import CommandParser
from megatron_srp.training.checks.devices import Devices

NO_GPU = Devices(0)


@dataclass
class Outcome:
    """What a stage left; a stage with more to say has a subclass."""

    stage: str
    status: str  # ok, failed, timeout, skipped or running
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)  # by name, of what JSON holds

    def summary(self) -> str:
        """One line."""
        scalars = {name: value for name, value in self.figures.items() if isinstance(value, int | float | str)}
        shown = {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in scalars.items()}
        figures = ", ".join(f"{name} {value}" for name, value in shown.items())
        return ": ".join(filter(None, [self.status, "; ".join(filter(None, [self.reason, figures]))]))


@dataclass(frozen=True)
class Stage:
    """One step of a plan.

    Attributes:
        name: as `--cases` has it.
        least_s: seconds without which it is not started.
        most_s: seconds after which it is ended.
        work: gets the check and the seconds that it has.
        may_fail: an experiment, whose failure is not the check's.
    """

    name: str
    least_s: float
    most_s: float
    work: Callable[["Check", float], Outcome]
    may_fail: bool = False


@dataclass
class Machine:
    """What the probe found."""

    devices: Devices = NO_GPU
    versions: dict[str, str] = field(default_factory=dict)
    no_transformer_engine: str = "the probe has not looked"  # why it cannot be used; empty if it can
    wrong: dict[str, str] = field(default_factory=dict)  # what does not compute here, and how that shows
    looks: dict[str, str] = field(default_factory=dict)  # what each look of the probe has found


@dataclass
class Check:
    """A run of a plan: what its stages may use.

    Attributes:
        folder: temporary; stages keep their data there. What is in `logs` comes back in an archive.
        deadline: of `time.monotonic`.
        environment: of the processes that are started.
        save: writes all that is known to `--out`.
    """

    options: argparse.Namespace
    folder: Path
    deadline: float
    machine: Machine = field(default_factory=Machine)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    outcomes: list[Outcome] = field(default_factory=list)
    save: Callable[[], None] = lambda: None
    stage: str = ""

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def read_log(self, name: str) -> str:
        """What a command has printed so far."""
        path = self.logs / name
        return path.read_text(errors="replace") if path.exists() else ""

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def note(self, outcome: Outcome) -> None:
        """Keep what is known of a stage, in place of what was known before."""
        for i, other in enumerate(self.outcomes):
            if other.stage == outcome.stage:
                self.outcomes[i] = outcome
                return
        self.outcomes.append(outcome)

    def outcome(self, stage: str) -> Outcome | None:
        return next((outcome for outcome in self.outcomes if outcome.stage == stage), None)

    def run(
        self,
        command: Sequence[object],
        log: str,
        limit_s: float,
        also: Callable[[], None] = lambda: None,
        environment: dict[str, str] | None = None,
    ) -> int | None:
        """Run a command, its output in `logs / log`; see `run_together`."""
        return self.run_together([Command(command, log, environment or {})], limit_s, also)[0]

    def run_together(
        self, commands: Sequence[Command], limit_s: float, also: Callable[[], None] = lambda: None
    ) -> list[int | None]:
        """Run commands at once, to their end or the limit; none of what they have started is left then.

        Args:
            also: called every ten seconds, before what is known is saved.

        Returns:
            Exit codes; None for what was ended at the limit.
        """

        def meanwhile() -> None:
            also()
            self.save()

        environment = self.environment | {MARK: f"{self.folder}:{self.stage};"}
        return run_together(commands, self.logs, environment, limit_s, meanwhile)


class Plan(Protocol):
    """What a plan's module has."""

    def add_options(self, parser: CommandParser) -> None:
        """Options of its own."""

    def stages(self, options: argparse.Namespace) -> list[Stage]:
        """In the order of their value. It may complete the options, and refuse them with a UsageError."""

    def markdown(self, check: Check) -> str:
        """What was found, for people: called while stages are still to come as well."""

    def comparison(self, check: Check) -> dict[str, Any]:
        """What follows from the outcomes, for JSON."""


def command_stage(name: str, least_s: float, most_s: float, argv: Sequence[object]) -> Stage:
    """A stage that is one command: ok if it exits with 0."""

    def work(check: Check, limit_s: float) -> Outcome:
        code = check.run(argv, f"{name}.log", limit_s)
        return Outcome(name, *ended(code, check.read_log(f"{name}.log")))

    return Stage(name, least_s, most_s, work)
