"""The soak's section of BENCHMARKS.md."""

from dataclasses import dataclass

from megatron_srp.benchmarks.sections import Section
from tests.soak.harms import HARMS
from tests.soak.judge import Outcome

_HEADER = "| harm | times | both nodes ended within | steps done again, at most | faults |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Soak:
    """What happened.

    Attributes:
        losses: (step, loss) of all starts.
        differences: from the undisturbed run's, and steps without a loss.
        left_over: files and processes at the end.
    """

    minutes: float
    seed: int
    outcomes: list[Outcome]
    losses: list[tuple[int, float]]
    differences: list[str]
    left_over: list[str]

    def faults(self) -> list[str]:
        """All that was wrong."""
        ends = [f"{outcome.harm}: {fault}" for outcome in self.outcomes for fault in outcome.faults]
        return [*ends, *self.differences, *(f"left over: {name}" for name in self.left_over)]


def make_section(soak: Soak) -> Section:
    body = f"{_summarize(soak)}\n\n{_HEADER}\n{_rows(soak)}\n"
    if soak.faults():
        body += "\nWrong:\n\n" + "".join(f"- {fault}\n" for fault in soak.faults())
    command = (
        "make soak" if soak.minutes == 60 and not soak.seed else f"make soak MINUTES={soak.minutes:g} SEED={soak.seed}"
    )
    return Section("soak", "A run that nobody watches", command, ("torch", "megatron-core"), body)


def _summarize(soak: Soak) -> str:
    steps = len(dict(soak.losses))
    again = len(soak.losses) - steps
    equal = len(soak.losses) - len(soak.differences)
    return (
        f"Two simulated nodes (network namespaces, one CPU rank each) train the debug preset for {soak.minutes:g} "
        f"minutes and suffer {len(soak.outcomes)} harms in a random order (seed {soak.seed}), each 11 to 25 steps after a "
        "start, at any moment of a step or a save; a checkpoint is written every 5 steps. After each the same command "
        f"resumes the run. {steps:,} steps were trained, {again:,} of them again; {equal:,} of {len(soak.losses):,} "
        f"losses are bit for bit those of a run without harm. Left over at the end: {len(soak.left_over) or 'nothing'}."
    )


def _rows(soak: Soak) -> str:
    return "\n".join(row for name in HARMS if (row := _row(name, [one for one in soak.outcomes if one.harm == name])))


def _row(name: str, outcomes: list[Outcome]) -> str:
    if not outcomes:
        return ""
    ended = [one.seconds for one in outcomes if one.seconds is not None]
    within = f"{max(ended):.0f} s" if len(ended) == len(outcomes) else "no end"
    again = max(one.steps_again for one in outcomes)
    return f"| {name} | {len(outcomes)} | {within} | {again} | {sum(len(one.faults) for one in outcomes)} |"
