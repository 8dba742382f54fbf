"""Stages that are steps of one experiment: each is some commands, and none is done twice in a folder that is kept.

`--work FOLDER` keeps what the steps make, so that a second call continues where the first one ran out of minutes.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.benchmarks.gpu.processes import ended
from megatron_srp.benchmarks.gpu.stages import Check, Outcome, Stage
from megatron_srp.errors import CommandParser

Argv = Sequence[object]


@dataclass(frozen=True)
class Place:
    """What a step may use: the check, and the folder of the experiment."""

    check: Check
    folder: Path

    @property
    def options(self) -> argparse.Namespace:
        return self.check.options


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name, least_s, most_s: as a `Stage` has them.
        commands: of the place, asked for when the step begins.
        figures: of the place, when it has ended well.
        needs: names of steps that must be done.
    """

    name: str
    least_s: float
    most_s: float
    commands: Callable[[Place], Sequence[Argv]]
    figures: Callable[[Place], dict[str, Any]] = lambda place: {}
    needs: tuple[str, ...] = ()

    def stage(self) -> Stage:
        return Stage(self.name, self.least_s, self.most_s, self.work)

    def work(self, check: Check, limit_s: float) -> Outcome:
        """Run the commands within the limit; what was done before is not done again, but has its figures."""
        place = Place(check, work_folder(check))
        done, deadline = place.folder / "done", time.monotonic() + limit_s
        done.mkdir(parents=True, exist_ok=True)
        missing = [name for name in self.needs if not (done / name).exists()]
        if missing:
            return Outcome(self.name, "skipped", f"needs {', '.join(missing)}")
        if (done / self.name).exists():
            return Outcome(self.name, "ok", "done before", figures=self.figures(place))
        for argv in self.commands(place):
            log = f"{self.name}.log"
            code = check.run(argv, log, deadline - time.monotonic())
            status, reason = ended(code, (check.logs / log).read_text(errors="replace"))
            if status != "ok":
                return Outcome(self.name, status, reason)
        (done / self.name).touch()
        return Outcome(self.name, "ok", figures=self.figures(place))


def add_work_option(parser: CommandParser) -> None:
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep what is made there, and continue from it")


def work_folder(check: Check) -> Path:
    work: Path | None = check.options.work
    return work.resolve() if work else check.folder / "experiment"


def keep(check: Check, file: Path, name: str) -> None:
    """Have a file come back among the logs."""
    if file.is_file():
        (check.logs / name).write_bytes(file.read_bytes())


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
