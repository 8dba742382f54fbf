"""Runs the stages of a plan within the minutes; start.py has prepared the machine, and starts it.

After each stage and every ten seconds all that is known is in `--out`: `gpu_check.json`, `gpu_check.md` and
`logs.tgz`. Whatever ends the run, what was measured until then is there.
"""

import shutil
import sys
import time
from pathlib import Path

from megatron_srp.benchmarks.gpu import output, probe
from megatron_srp.benchmarks.gpu.options import load_plan, parse
from megatron_srp.benchmarks.gpu.stages import Check, Outcome, Stage
from megatron_srp.errors import run_command

_LAST_SAVE_S = 3.0


def main(folder: str, began: str, *argv: str) -> int:
    options = parse(list(argv))
    plan = load_plan(options.plan)
    deadline = float(began) + 60 * options.minutes - _LAST_SAVE_S
    check = Check(options, Path(folder), deadline)
    check.logs.mkdir()
    check.save = lambda: output.save(check, plan, argv)
    if options.device == "cpu":
        check.environment["CUDA_VISIBLE_DEVICES"] = ""
    stages = {stage.name: stage for stage in plan.stages(options)}
    for stage in [probe.STAGE, *(stages[name] for name in options.cases)]:
        run_stage(stage, check)
    print(output.markdown(check, plan))
    return int(any(has_failed(outcome, stages) for outcome in check.outcomes))


def has_failed(outcome: Outcome, stages: dict[str, Stage]) -> bool:
    return outcome.status == "failed" and not (outcome.stage in stages and stages[outcome.stage].may_fail)


def run_stage(stage: Stage, check: Check) -> None:
    """Run it if there is time; whatever happens in it, the next one follows."""
    check.stage = stage.name
    least = stage.least_s if check.options.device == "cuda" else 0.0
    began = time.monotonic()
    if check.left() < max(least, 1.0):
        needs = f"; it needs {stage.least_s:.0f} s" if stage.least_s else ""
        outcome = Outcome(stage.name, "skipped", f"no time left{needs}")
    else:
        say(check, f"{stage.name} ...")
        note_gpu(check)
        outcome = _work(stage, check)
        outcome.seconds = time.monotonic() - began
    check.note(outcome)
    say(check, f"{stage.name}: {outcome.summary()}")
    check.save()


def note_gpu(check: Check) -> None:
    """Log the GPU's clock, temperature and power before a stage: a hot GPU is slower."""
    asked = "timestamp,clocks.sm,temperature.gpu,power.draw,memory.used"
    if shutil.which("nvidia-smi"):
        check.run(["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], "gpu.log", 10)


def _work(stage: Stage, check: Check) -> Outcome:
    most = stage.most_s if check.options.device == "cuda" else check.left()  # a CPU may be slow, and has no hurry
    try:
        return stage.work(check, min(most, check.left()))
    except Exception as error:  # one stage's bug must not cost the others their figures
        return Outcome(stage.name, "failed", f"{type(error).__name__}: {error}"[:200])


def say(check: Check, text: str) -> None:
    print(f"[{max(0.0, check.left()):.0f} s left] {text}", flush=True)


if __name__ == "__main__":
    run_command(lambda: main(*sys.argv[1:]))
