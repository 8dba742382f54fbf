"""Harm a run on two simulated nodes for an hour, resume it by the same command each time, and compare its losses.

    make soak                                         an hour; writes the section of BENCHMARKS.md
    python -m tests.soak --minutes 10 --seed 3        shorter, with other harms

Needs root, for network namespaces and a small disk in memory. The logs of all starts are in out/soak/logs.
"""

import argparse
import random
import shutil
import sys
import time
from pathlib import Path

from megatron_srp.benchmarks.sections import write_section
from megatron_srp.errors import SrpError
from tests.soak.harms import HARMS
from tests.soak.job import Job, Life
from tests.soak.judge import (
    SECONDS_TO_END,
    Outcome,
    compare_losses,
    find_left_over,
    judge_end,
    judge_resume,
    read_losses,
)
from tests.soak.nodes import Cluster, two_nodes
from tests.soak.report import Soak, make_section
from tests.soak.starts import make_data, run_in_peace, start

FEWEST_STEPS, MOST_STEPS = 11, 25  # of a start: always a save or two


def main(argv: list[str]) -> int:
    args = _parse(argv)
    folder = args.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with two_nodes(folder) as cluster:
            soak = run(cluster, folder, args.minutes, args.seed)
    except SrpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    section = make_section(soak)
    print(f"\n{section.body}")
    if args.out is not None:
        write_section(section, args.out)
    return 1 if soak.faults() else 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of harm; the undisturbed run comes after them")
    parser.add_argument("--seed", type=int, default=0, help="of the harms, their order and their moments")
    parser.add_argument("--folder", type=Path, default=Path("out/soak"), help="for logs and the disk of the nodes")
    parser.add_argument("--out", type=Path, help="a BENCHMARKS.md to write the section into")
    return parser.parse_args(argv)


def run(cluster: Cluster, folder: Path, minutes: float, seed: int) -> Soak:
    """Harm a job, let it end in peace, run an undisturbed one for as many steps, and compare."""
    logs = folder / "logs"
    logs.mkdir()
    job = Job(cluster, make_data(folder), cluster.disk / "harmed", logs)
    outcomes = harm(job, random.Random(seed), minutes)
    losses = read_losses(job.out / "tensorboard")
    left_over = find_left_over(job)
    other = Job(cluster, job.data, folder / "undisturbed", logs)
    run_in_peace(other, "undisturbed", max(dict(losses)))
    differences = compare_losses(losses, read_losses(other.out / "tensorboard"))
    return Soak(minutes, seed, outcomes, losses, differences, left_over)


def harm(job: Job, rng: random.Random, minutes: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    began = time.monotonic()
    names: list[str] = []
    while time.monotonic() - began < 60 * minutes:
        names = names or rng.sample(sorted(HARMS), len(HARMS))  # each once before any comes again
        life = start(job, f"{len(outcomes):03d}", rng.randint(FEWEST_STEPS, MOST_STEPS))
        if outcomes:
            judge_resume(outcomes[-1], life)
        outcomes.append(strike(job, life, names.pop(), rng))
        _say(outcomes[-1])
    judge_resume(outcomes[-1], run_in_peace(job, "last", FEWEST_STEPS))
    return outcomes


def strike(job: Job, life: Life, name: str, rng: random.Random) -> Outcome:
    chosen = HARMS[name]
    time.sleep(rng.random() * 1.5)  # at any moment of a step or a save
    chosen.strike(job, life, rng)
    seconds = life.wait_for_end(SECONDS_TO_END)
    outcome = judge_end(name, chosen.survivors, life, seconds)
    if seconds is None:
        for node in range(2):
            job.cluster.kill(node)
        life.wait_for_end(SECONDS_TO_END)
    chosen.heal(job, life, rng)
    return outcome


def _say(outcome: Outcome) -> None:
    seconds = "still running" if outcome.seconds is None else f"ended in {outcome.seconds:.0f} s"
    print(f"step {outcome.last_step:4}: {outcome.harm}: {seconds}; {outcome.cause}", *outcome.faults, sep="\n    ")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
