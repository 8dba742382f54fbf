"""The evaluation of a model: a suite's columns, judged, and a report. A stopped one resumes from its cache."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.evaluation.behaviors import find_sources
from megatron_srp.evaluation.column import Context
from megatron_srp.evaluation.hf_target import HFTarget, TargetOptions
from megatron_srp.evaluation.judges import Judge, JudgePanel
from megatron_srp.evaluation.judges.heuristic import HeuristicJudge
from megatron_srp.evaluation.judges.reference import ReferenceJudge
from megatron_srp.evaluation.judges.strict import StrictJudge
from megatron_srp.evaluation.progress import Progress
from megatron_srp.evaluation.results import ResultStore
from megatron_srp.evaluation.results_json import case_lines, to_report, write_report
from megatron_srp.evaluation.suite import load_suite, run_suite
from megatron_srp.reports.evaluation_report import write_evaluation_report


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What is evaluated, and how.

    Attributes:
        model: folder or hub name of the model. target: how it is deployed.
        out: folder of the report and of all results.
        suite: quick, paper, or a YAML file; data: where its data sets are.
        limit: maximum cases of a column; None for the suite's own.
        seed: of the attacks.
        guard, guard_options: the guard to compare with, if any.
        judge_endpoint, judge_model, judge_max_tokens: an LLM as a judge, if any.
        harmbench_classifier: weights of HarmBench's classifier, if it is to judge too.
        lm_eval_include, lm_eval_tasks: more task descriptions, and tasks with their metrics instead of the suite's.
        retry_failed: retry lm-eval tasks that could not be run before.
        threshold_given: whether the threshold of `target` was set by the user, and holds for fine-tuned models too.
    """

    model: str
    out: Path
    suite: str = "quick"
    data: Sequence[str] = ()
    limit: int | None = None
    seed: int = 0
    target: TargetOptions = field(default_factory=TargetOptions)
    guard: str | None = None
    guard_options: GuardOptions = field(default_factory=GuardOptions)
    judge_endpoint: str | None = None
    judge_model: str | None = None
    judge_max_tokens: int = 16
    harmbench_classifier: str | None = None
    lm_eval_include: str | None = None
    lm_eval_tasks: Mapping[str, str] = field(default_factory=dict)
    retry_failed: bool = False
    threshold_given: bool = False


def evaluate_model(settings: EvaluationSettings) -> Path:
    """Evaluate, and return the page of the report.

    Raises:
        UsageError, InputError, OutputError, GuardError: by the cause of the failure.
    """
    suite, sources = load_suite(settings.suite), find_sources(list(settings.data))
    with ExitStack() as stack:
        target = HFTarget(settings.model, settings.target)
        store = stack.enter_context(ResultStore(settings.out / "cache"))
        guard = load_guard(settings.guard, settings.guard_options) if settings.guard else None
        if guard:
            stack.callback(guard.close)
        panel = _panel(settings, store, target)
        stack.callback(panel.close)
        progress = stack.enter_context(Progress())
        context = Context(target, settings.model, store, panel, progress, sources, guard=guard, seed=settings.seed)
        context.calibration_data, context.calibration_cases = suite.calibration_data, suite.calibration_cases
        context.threshold_given = settings.threshold_given
        context.lm_eval = {
            "include": settings.lm_eval_include,
            "tasks": dict(settings.lm_eval_tasks),
            "retry_failed": settings.retry_failed,
        }
        results = run_suite(suite, context, settings.limit)
        report = to_report(suite, context, results, settings.limit or suite.limit)
        write_report(settings.out, report, results)
        return write_evaluation_report(settings.out / "report.html", report, case_lines(results))


def _panel(settings: EvaluationSettings, store: ResultStore, target: HFTarget) -> JudgePanel:
    judges: list[Judge] = [HeuristicJudge(), ReferenceJudge(), StrictJudge(target.form)]
    missing: dict[str, str] = {}
    if settings.judge_endpoint and settings.judge_model:
        from megatron_srp.annotation.engines.http_client import EndpointClient
        from megatron_srp.evaluation.judges.llm import LLMJudge

        client = EndpointClient(settings.judge_endpoint)
        judges.append(LLMJudge(client, settings.judge_model, settings.judge_max_tokens))
    else:
        missing["llm"] = "no judge: pass --judge-endpoint and --judge-model"
    if settings.harmbench_classifier:
        from megatron_srp.evaluation.judges.harmbench import HarmBenchJudge

        judges.append(HarmBenchJudge(settings.harmbench_classifier))
    else:
        missing["harmbench"] = "no classifier: pass --harmbench-classifier"
    return JudgePanel(judges, missing, store.file("judgements"))
