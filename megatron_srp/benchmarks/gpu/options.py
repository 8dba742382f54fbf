"""The options of `tools/gpu_check.sh`, and its plans. The standard library is enough for it."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import cast

from megatron_srp.benchmarks.gpu.stages import Plan
from megatron_srp.errors import CommandParser, UsageError, did_you_mean

# A plan is a module with the functions of `stages.Plan`. It is imported before the wheels are installed: what they
# hold it imports in its functions.
DESCRIPTION = "Every figure that needs a GPU, on one bare machine, in the order of their value."
PLANS = {
    "training": "megatron_srp.benchmarks.gpu.training",
    "model": "megatron_srp.benchmarks.gpu.model",
    "world": "megatron_srp.benchmarks.gpu.world",
}


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the plan that `argv` names.

    Raises:
        UsageError: for a plan, a stage or a value that there is not.
    """
    chosen = CommandParser(add_help=False)
    chosen.add_argument("--plan", default="training")
    plan = load_plan(chosen.parse_known_args(argv)[0].plan)
    parser = CommandParser(description=DESCRIPTION, prog="gpu_check.sh")
    _add_options(parser)
    plan.add_options(parser)
    options = parser.parse_args(argv)
    options.out = options.out.resolve()
    if options.minutes <= 0:
        raise UsageError(f"--minutes {options.minutes:g}: give the minutes that the whole check may take")
    options.cases = _check_cases(options.cases, [stage.name for stage in plan.stages(options)])
    return options


def load_plan(name: str) -> Plan:
    if name not in PLANS:
        raise UsageError(f"no plan {name!r}; {did_you_mean(name, list(PLANS))}")
    return cast(Plan, import_module(PLANS[name]))


def _add_options(parser: CommandParser) -> None:
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels of what the machine lacks")
    parser.add_argument("--out", type=Path, default=Path("out/gpu-check"), help="folder for tables and logs")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it, from the command's start")
    parser.add_argument("--cases", metavar="NAME,...", help="only these, in this order")
    parser.add_argument("--plan", default="training", help=f"what is measured: {', '.join(PLANS)}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal, no figures")


def _check_cases(given: str | None, known: list[str]) -> list[str]:
    if given is None:
        return known
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(f"--cases: no case {name!r}; {did_you_mean(name, known)}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--cases {given!r}: give each case once, of {', '.join(known)}")
    return names
