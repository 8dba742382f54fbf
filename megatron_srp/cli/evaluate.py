"""`tools/evaluate.py`: the paper's tables for a model."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.cli.guard_flags import add_guard_arguments, guard_from_args
from megatron_srp.errors import CommandParser, UsageError
from megatron_srp.generation.guard.policy import DEFAULT_REFUSAL, GuardPolicy
from megatron_srp.reflection import ReflectionFormat, parse_stop_after

if TYPE_CHECKING:
    from megatron_srp.evaluation.hf_target import TargetOptions
    from megatron_srp.evaluation.judges import JudgePanel
    from megatron_srp.evaluation.results import ResultStore


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        description="Attack and evaluate a model: report.html and report.json with the paper's figures beside the "
        "measured ones. The same command goes on where a stopped one was.",
    )
    add = parser.add_argument
    add("target", metavar="MODEL", help="folder that tools/export_hf.py wrote, or a name on the hub")
    add("--suite", default="quick", metavar="NAME", help="quick, paper, or a YAML file of your own (default: quick)")
    add("--out", type=Path, required=True, metavar="DIR", help="where the report and all results are kept")
    add("--data", nargs="+", default=[], metavar="SOURCE", help="a folder of data sets; NAME=FILE; NAME=hub")
    add("--limit", type=int, metavar="N", help="cases in a column at most (default: the suite's)")
    add("--seed", type=int, default=0, metavar="N", help="of the attacks (default: 0)")
    _add_target_arguments(parser)
    _add_judge_arguments(parser)
    group = parser.add_argument_group("capability").add_argument
    group("--lm-eval-include", metavar="DIR", help="more task descriptions for lm-eval")
    group("--lm-eval-tasks", metavar="TASK=METRIC,...", help="instead of the suite's tasks")
    group("--retry-failed", action="store_true", help="try again the tasks that could not be run before")
    add_guard_arguments(parser, required=False, one_mode=False)
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: give at least 1")
    if args.lm_eval_include and not Path(args.lm_eval_include).is_dir():
        raise UsageError(f"--lm-eval-include {args.lm_eval_include}: no such folder; give one with task descriptions")
    if bool(args.judge_endpoint) != bool(args.judge_model):
        raise UsageError("--judge-endpoint and --judge-model go together; give both, or neither")
    return args


def _add_target_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model as it is deployed").add_argument
    add("--device", metavar="NAME", help="cuda, cuda:1 or cpu (default: a GPU where there is one)")
    add("--dtype", metavar="NAME", help="bfloat16, float16 or float32 (default: bfloat16 on a GPU, else float32)")
    add("--batch-size", type=int, default=16, metavar="N", help="answers at a time (default: 16)")
    add("--max-new-tokens", type=int, default=256, metavar="N", help="of an answer, where a column does not say")
    add("--no-chat", action="store_true", help="a base model: prompts are texts to go on with")
    add("--reflection-tokens", choices=["text", "special"], default="text", help="as the shards were written")
    add("--on-unsafe", default="stop", metavar="POLICY", help="of the guard: stop, refuse or retract (default: stop)")
    add("--stop-at", default="Unsafe,Controversial", metavar="VERDICTS", help="what counts as unsafe (default: both)")
    add("--reflect-every", type=int, default=0, metavar="TOKENS", help="force reflections so often, when guarded")
    add("--reflect-prompt", action="store_true", help="force one on the prompt, when guarded")


def _add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("judges, beside the heuristic one").add_argument
    add("--judge-endpoint", metavar="URL", help="OpenAI-compatible, such as http://127.0.0.1:8000/v1")
    add("--judge-model", metavar="NAME", help="the model's name there")
    add("--judge-max-tokens", type=int, default=16, metavar="N", help="of a reply; more for one that thinks aloud")
    add("--harmbench-classifier", metavar="DIR", help="weights of cais/HarmBench-Llama-2-13b-cls, or its name")


def run(args: argparse.Namespace) -> Path:
    """Evaluate; returns the page."""
    from megatron_srp.evaluation.behaviors import find_sources
    from megatron_srp.evaluation.suite import load_suite

    suite, sources = load_suite(args.suite), find_sources(args.data)
    options, tasks = _target_options(args), _tasks(args.lm_eval_tasks)

    from megatron_srp.evaluation.column import Context
    from megatron_srp.evaluation.hf_target import HFTarget
    from megatron_srp.evaluation.progress import Progress
    from megatron_srp.evaluation.results import ResultStore
    from megatron_srp.evaluation.results_json import case_lines, to_report, write_report
    from megatron_srp.evaluation.suite import run_suite
    from megatron_srp.reports.evaluation_report import write_evaluation_report

    with ExitStack() as stack:
        target = HFTarget(args.target, options)
        store = stack.enter_context(ResultStore(args.out / "cache"))
        guard = guard_from_args(args) if args.guard else None
        if guard:
            stack.callback(guard.close)
        panel = _panel(args, store)
        stack.callback(panel.close)
        progress = stack.enter_context(Progress())
        context = Context(target, args.target, store, panel, progress, sources, guard=guard, seed=args.seed)
        context.lm_eval = {"include": args.lm_eval_include, "tasks": tasks, "retry_failed": args.retry_failed}
        results = run_suite(suite, context, args.limit)
        report = to_report(suite, context, results, args.limit or suite.limit)
        write_report(args.out, report, results)
        return write_evaluation_report(args.out / "report.html", report, case_lines(results))


def _target_options(args: argparse.Namespace) -> "TargetOptions":
    form = ReflectionFormat(special_tokens=args.reflection_tokens == "special")
    stop_at = parse_stop_after(args.stop_at)
    policy = GuardPolicy(args.on_unsafe, stop_at, DEFAULT_REFUSAL, args.reflect_every, args.reflect_prompt)
    for flag in ("batch_size", "max_new_tokens"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: give at least 1")

    from megatron_srp.evaluation.hf_target import TargetOptions

    chat = False if args.no_chat else None
    return TargetOptions(form, policy, args.max_new_tokens, args.batch_size, chat, args.device, args.dtype)


def _panel(args: argparse.Namespace, store: "ResultStore") -> "JudgePanel":
    from megatron_srp.evaluation.judges import Judge, JudgePanel
    from megatron_srp.evaluation.judges.heuristic import HeuristicJudge

    judges: list[Judge] = [HeuristicJudge()]
    missing: dict[str, str] = {}
    if args.judge_endpoint:
        from megatron_srp.annotation.engines.http_client import EndpointClient
        from megatron_srp.evaluation.judges.llm import LLMJudge

        judges.append(LLMJudge(EndpointClient(args.judge_endpoint), args.judge_model, args.judge_max_tokens))
    else:
        missing["llm"] = "no judge: give --judge-endpoint and --judge-model"
    if args.harmbench_classifier:
        from megatron_srp.evaluation.judges.harmbench import HarmBenchJudge

        judges.append(HarmBenchJudge(args.harmbench_classifier))
    else:
        missing["harmbench"] = "no classifier: give --harmbench-classifier"
    return JudgePanel(judges, missing, store.file("judgements"))


def _tasks(given: str | None) -> dict[str, str]:
    tasks: dict[str, Any] = {}
    for part in given.split(",") if given else ():
        task, _, metric = part.partition("=")
        if not task or not metric:
            raise UsageError(f"--lm-eval-tasks {part!r}: give TASK=METRIC, such as piqa=acc_norm")
        tasks[task] = metric
    return tasks


def main(argv: Sequence[str]) -> None:
    page = run(parse(argv))
    print(f"wrote {page}, and report.json and cases.jsonl beside it")
