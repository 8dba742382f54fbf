"""`srp gate`: may this model be released?"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.cli import evaluate
from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.errors import UsageError
from megatron_srp.generation.model_folder import check_model_folder

if TYPE_CHECKING:
    from megatron_srp.evaluation.gate.check import Outcome
    from megatron_srp.evaluation.gate.criteria import Criteria

DESCRIPTION = """
Evaluate a model, compare the figures with release criteria, and write a safety card: safety_card.html and
safety_card.md. Exits with 0 if all criteria are met, 1 if not, 2 for a mistake in the flags or the criteria.

MODEL is a model, which is evaluated with the criteria's suite, or the --out folder of a finished evaluation, whose
figures are taken.
"""
CRITERIA_HELP = "default, world, or a YAML file of your own"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp gate", description=DESCRIPTION, old_names=evaluate.OLD_NAMES)
    parser.add_argument("target", metavar="MODEL", help="a model folder or its name on the hub, or an evaluation")
    add = parser.add_argument_group("gate").add_argument
    add(
        "--criteria",
        default="default",
        metavar="NAME",
        help=f"{CRITERIA_HELP} (default: default)",
    )
    add(
        "--suite",
        metavar="NAME",
        help=f"{evaluate.SUITE_HELP} (default: the suite that the criteria name)",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the card and all results (default: the folder of the evaluation)",
    )
    evaluate.add_evaluation_flags(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Parse `argv`, evaluate where needed, compare, write the card. Returns the exit code."""
    args = build_parser().parse_args(argv)
    evaluate.check_evaluation_flags(args)

    from megatron_srp.evaluation.gate.card import card_of
    from megatron_srp.evaluation.gate.check import check, passes
    from megatron_srp.evaluation.gate.criteria import load_criteria
    from megatron_srp.evaluation.results_json import REPORT, read_report
    from megatron_srp.reports.safety_card import write_safety_card

    criteria = load_criteria(args.criteria)
    given = Path(args.target)
    read = given.name == REPORT or (given / REPORT).is_file()
    folder = (given.parent if given.name == REPORT else given) if read else _evaluate(args, criteria)
    report = read_report(folder)
    outcomes = check(criteria, report)
    page, text = write_safety_card(args.out or folder, card_of(report, criteria, outcomes))
    print(_to_text(outcomes))
    print(f"wrote {page} and {text}")
    if not passes(outcomes):
        next_step(f"open {folder / 'report.html'} in a browser, which shows the cases that failed")
        return 1
    next_step(f"publish {text} next to the model")
    return 0


def _evaluate(args: argparse.Namespace, criteria: "Criteria") -> Path:
    """Run the suite; the criteria's columns are compared with its own first, since a run takes hours."""
    if args.out is None:
        raise UsageError("--out is missing: name the folder of the safety card and all results")
    args.suite = args.suite or criteria.suite
    check_model_folder(args.target)  # before torch is imported

    from megatron_srp.evaluation.job import evaluate_model
    from megatron_srp.evaluation.suite import load_suite

    criteria.check_columns([column.name for column in load_suite(args.suite).columns], f"--suite {args.suite}")
    return evaluate_model(evaluate.settings_from_args(args)).parent


def _to_text(outcomes: "Sequence[Outcome]") -> str:
    """A line for each criterion, and the sum."""
    lines = []
    for outcome in outcomes:
        asked = f"{outcome.criterion.column}, {outcome.criterion.measure} {outcome.criterion.describe()}"
        why = f": {outcome.reason}" if outcome.reason else ""
        lines.append(f"{'pass' if outcome.passed else 'FAIL'}  {asked}{why} [{outcome.found()}]")
    met = sum(outcome.passed for outcome in outcomes)
    return "\n".join([*lines, f"{met} of {len(outcomes)} criteria are met"])
