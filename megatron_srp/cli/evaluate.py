"""`srp evaluate`: the paper's tables for a model."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.cli import generation_flags, guard_flags
from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.policy import DEFAULT_REFUSAL, ON_UNSAFE, GuardPolicy

if TYPE_CHECKING:
    from megatron_srp.evaluation.job import EvaluationSettings

DESCRIPTION = """
Attack and evaluate a model. Writes report.html and report.json, with the paper's figures next to the measured ones. A
stopped run resumes when the same command is rerun.
"""
SUITE_HELP = "quick, paper, tampering, gate, world, or a YAML file of your own"
GUARD_PURPOSE = (
    "Its verdicts are compared with the model's own, and it labels the data of fine-tuning with reflections."
)
OLD_NAMES = guard_flags.OLD_NAMES | generation_flags.OLD_NAMES


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp evaluate", description=DESCRIPTION, old_names=OLD_NAMES)
    parser.add_argument("target", metavar="MODEL", help="folder that `srp export` wrote, or a name on the hub")
    add = parser.add_argument_group("suite").add_argument
    add("--suite", default="quick", metavar="NAME", help=SUITE_HELP)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the report and all results")
    add_evaluation_flags(parser)
    return parser


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """All flags but those that say which model and suite, and where to."""
    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="where data sets are: a folder of them, NAME=FILE for one, or NAME=hub to download it (default: none)",
    )
    add(
        "--limit",
        type=int,
        metavar="N",
        help="maximum cases per column, and maximum rows to fine-tune on (default: the suite's)",
    )
    add("--seed", type=int, default=0, metavar="N", help="random seed of the attacks")
    _add_target_flags(parser)
    _add_judge_flags(parser)
    add = parser.add_argument_group("capability").add_argument
    add(
        "--lm-eval-include", metavar="DIR", help="folder with task descriptions of your own for lm-eval (default: none)"
    )
    add("--lm-eval-tasks", metavar="TASK=METRIC,...", help="lm-eval tasks to run (default: the suite's)")
    add("--retry-failed", action="store_true", help="retry lm-eval tasks that failed before")
    guard_flags.add_guard_flags(parser, required=False, one_mode=False, purpose=GUARD_PURPOSE)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags, checked; raises UsageError."""
    args = build_parser().parse_args(argv)
    check_evaluation_flags(args)
    return args


def check_evaluation_flags(args: argparse.Namespace) -> None:
    """Raises UsageError for values that do not fit."""
    require_at_least(1, args, "--limit", "--batch-size", "--max-new-tokens", "--judge-max-tokens")
    if args.lm_eval_include and not Path(args.lm_eval_include).is_dir():
        raise UsageError(f"--lm-eval-include {args.lm_eval_include}: no such folder; pass one with task descriptions")
    if bool(args.judge_endpoint) != bool(args.judge_model):
        raise UsageError("--judge-endpoint and --judge-model go together; pass both, or neither")
    guard_flags.guard_options(args)


def _add_target_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model as it is deployed")
    generation_flags.add_device_flags(group)
    add = group.add_argument
    add("--batch-size", type=int, default=16, metavar="N", help="maximum answers in a batch")
    add(
        "--max-new-tokens",
        type=int,
        default=256,
        metavar="N",
        help="maximum tokens per answer, unless the column sets it",
    )
    add("--no-chat", action="store_true", help="for a base model: continue prompts as plain text")
    add("--on-unsafe", choices=ON_UNSAFE[1:], default="stop", help="what an unsafe verdict does in guarded columns")
    add("--stop-after", metavar="VERDICTS", help=generation_flags.STOP_AFTER_HELP)
    add(
        "--reflect-every",
        type=int,
        default=0,
        metavar="N",
        help="in guarded columns, force a reflection every N tokens; 0 for never (default: 0)",
    )
    add("--reflect-prompt", action="store_true", help="in guarded columns, force a reflection on the prompt")
    add("--unsafe-threshold", type=float, metavar="P", help=generation_flags.THRESHOLD_HELP)
    judged = f"in columns that are guarded or tamper, {generation_flags.VERDICTS_BY_HELP}"
    add("--prompt-verdicts-by", metavar="DIR", help=judged)


def _add_judge_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("judges, in addition to the heuristic one").add_argument
    add("--judge-endpoint", metavar="URL", help="OpenAI-compatible base URL including /v1 (default: no such judge)")
    add("--judge-model", metavar="NAME", help="the judge's name at the endpoint (no default)")
    add(
        "--judge-max-tokens",
        type=int,
        default=16,
        metavar="N",
        help="maximum tokens per reply; raise it for reasoning models",
    )
    add(
        "--harmbench-classifier",
        metavar="DIR",
        help="weights of cais/HarmBench-Llama-2-13b-cls: a folder, or that name on the hub (default: no such judge)",
    )


def settings_from_args(args: argparse.Namespace) -> "EvaluationSettings":
    """The evaluation that the flags describe; raises UsageError."""
    own = generation_flags.settings_from_args(args, args.target)  # a mistyped model ends before torch is imported

    from megatron_srp.evaluation.hf_target import TargetOptions
    from megatron_srp.evaluation.job import EvaluationSettings

    policy = GuardPolicy(
        args.on_unsafe, own.stop_at, DEFAULT_REFUSAL, args.reflect_every, args.reflect_prompt, own.threshold
    )
    chat = False if args.no_chat else None
    target = TargetOptions(
        *(
            own.form,
            policy,
            args.max_new_tokens,
            args.batch_size,
            chat,
            args.device,
            args.dtype,
            args.prompt_verdicts_by,
        )
    )
    return EvaluationSettings(
        args.target,
        args.out,
        suite=args.suite,
        data=args.data,
        limit=args.limit,
        seed=args.seed,
        target=target,
        guard=args.guard,
        guard_options=guard_flags.guard_options(args),
        judge_endpoint=args.judge_endpoint,
        judge_model=args.judge_model,
        judge_max_tokens=args.judge_max_tokens,
        harmbench_classifier=args.harmbench_classifier,
        lm_eval_include=args.lm_eval_include,
        lm_eval_tasks=_tasks(args.lm_eval_tasks),
        retry_failed=args.retry_failed,
        threshold_given=args.unsafe_threshold is not None,
    )


def _tasks(given: str | None) -> dict[str, str]:
    tasks = {}
    for part in given.split(",") if given else ():
        task, _, metric = part.partition("=")
        if not task or not metric:
            raise UsageError(f"--lm-eval-tasks {part!r}: pass TASK=METRIC, such as piqa=acc_norm")
        tasks[task] = metric
    return tasks


def main(argv: Sequence[str]) -> None:
    """Parse `argv`, evaluate, print where the report is."""
    settings = settings_from_args(parse(argv))

    from megatron_srp.evaluation.job import evaluate_model

    page = evaluate_model(settings)
    print(f"wrote {page}, with report.json and cases.jsonl next to it")
    next_step(f"srp compare {page.parent} OTHER compares it with another evaluation")
