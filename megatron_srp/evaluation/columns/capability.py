"""Capability through lm-eval: the model is handed over as it is, one task at a time, and every result is kept.

A task that could not be run is kept as well, with the reason: most need data from the hub, and a machine without
access would try for minutes in each run. `--retry-failed` tries again.
"""

import logging
from collections.abc import Mapping
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.evaluation.column import CaseResult, ColumnResult, ColumnSpec, Context, Measure, NotRun
from megatron_srp.evaluation.results import key_of
from megatron_srp.evaluation.types import AttackCase, Defence
from megatron_srp.files import checksum
from megatron_srp.statistics.paired import Estimate, mean
from megatron_srp.statistics.wilson import Z95

_FAILURE = "failure"  # other keys are numbers of documents


def capability(spec: ColumnSpec, context: Context) -> ColumnResult:
    """Options: `tasks`, from lm-eval's names to the metric that counts, or those of `--lm-eval-tasks`."""
    try:
        import lm_eval  # noqa: F401  (whether it is installed)
    except ImportError:
        raise NotRun("lm-eval is not installed; pip install 'megatron-srp[eval]'") from None
    tasks: Mapping[str, str] = context.lm_eval.get("tasks") or spec.options.get("tasks") or {}
    if not tasks:
        raise NotRun("the suite names no tasks; pass --lm-eval-tasks NAME=METRIC")
    runner = _Runner(context)
    measures, cases = [], []
    for task, metric in tasks.items():
        try:
            scores = runner.scores(task, metric)
        except NotRun as error:
            measures.append(Measure(task, None, not_run=str(error)))
            continue
        measures.append(Measure(task, _normal(np.array(list(scores.values())))))
        cases += [CaseResult(f"{task}/{i}", AttackCase(i, ""), None, {task: score}) for i, score in scores.items()]
    averaged = [m for m in measures if m.name in spec.options.get("mean_of", tasks)]
    return ColumnResult(spec, [*measures, _average(averaged)], cases, facts={"metrics": dict(tasks)})


def _normal(values: np.ndarray) -> Estimate:
    """A mean and its normal interval, from lm-eval's own standard error."""
    half = Z95 * values.std(ddof=1) / sqrt(len(values)) if len(values) > 1 else float("nan")
    middle = mean(values)
    return Estimate(middle, middle - half, middle + half, len(values))


def _average(measures: list[Measure]) -> Measure:
    estimates = [m.estimate for m in measures if m.estimate]
    if not estimates or len(estimates) < len(measures):
        return Measure("mean", None, not_run="not all of its tasks were run")
    middle = float(np.mean([e.value for e in estimates]))
    half = sqrt(sum((e.high - e.value) ** 2 for e in estimates)) / len(estimates)
    return Measure("mean", Estimate(middle, middle - half, middle + half, sum(e.n for e in estimates)))


def _descriptions(folder: str | None) -> dict[str, Any]:
    """Checksums of the user's task descriptions, which results depend on."""
    found = sorted(Path(folder).rglob("*")) if folder else []
    return {str(f.relative_to(folder or "")): checksum(f) for f in found if f.suffix in (".yaml", ".py")}


class _Runner:
    def __init__(self, context: Context) -> None:
        self._context, self._model, self._manager = context, None, None
        self._results = context.store.file("capability")

    def scores(self, task: str, metric: str) -> dict[str, float]:
        """The metric for each document, by its number; raises NotRun with lm-eval's reason."""
        context = self._context
        dtype = context.target.settings(Defence.UNGUARDED)["dtype"]
        described = _descriptions(context.lm_eval.get("include"))
        key = key_of(context.target.fingerprint, dtype, task, metric, context.limit, version("lm_eval"), described)
        known = self._results.get(key)
        if known is None or (context.lm_eval.get("retry_failed") and _FAILURE in known):
            context.progress.step(f"lm-eval: {task}", 1)
            self._results.add([(key, self._tried(task, metric))])
            context.progress.advance()
        found: dict[str, Any] = self._results[key]
        if _FAILURE in found:
            raise NotRun(f"{found[_FAILURE]} (--retry-failed tries again)")
        return found

    def _tried(self, task: str, metric: str) -> dict[str, Any]:
        try:
            return self._evaluate(task, metric)
        except NotRun as error:
            return {_FAILURE: str(error)}

    def _evaluate(self, task: str, metric: str) -> dict[str, float]:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        target = self._context.target
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns about a model that it did not load itself
        try:
            self._manager = self._manager or TaskManager(include_path=self._context.lm_eval.get("include"))
            self._model = self._model or HFLM(
                pretrained=target.network, tokenizer=target.tokenizer, batch_size=target.batch_size
            )
            found = lm_eval.simple_evaluate(
                model=self._model,
                tasks=[task],
                limit=self._context.limit,
                task_manager=self._manager,
                log_samples=True,
                bootstrap_iters=0,
                verbosity="ERROR",
            )
        except Exception as error:  # from lm-eval, datasets or the network
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise NotRun(f"lm-eval cannot run it: {reason}") from None
        return document_scores(found["samples"], task, metric)


def document_scores(samples: Mapping[str, Any], task: str, metric: str) -> dict[str, float]:
    """The metric for each document, by its number; of several marks (one for each instruction, say) their mean.

    Raises:
        NotRun: where lm-eval has no number for a document.
    """
    if task not in samples:
        raise NotRun(f"lm-eval has no documents for it, as for a group: name its tasks ({', '.join(sorted(samples))})")
    if any(metric not in sample for sample in samples[task]):
        raise NotRun(f"lm-eval has no metric {metric} for it")
    found = {str(sample["doc_id"]): sample[metric] for sample in samples[task]}
    try:
        return {i: float(np.mean(value) if isinstance(value, list) and value else value) for i, value in found.items()}
    except (TypeError, ValueError):
        raise NotRun(f"its metric {metric} is not a number for each document; choose another") from None
