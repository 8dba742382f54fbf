"""The threshold of a fine-tuned model, measured as its deployer would: on benign prompts alone, after the tuning.

Fine-tuning moves P(unsafe) by orders of magnitude, so the untuned model's threshold says nothing. The prompts are a
split that no column is asked: `Context.behaviors` leaves them out. As many of the others check the threshold.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_srp.evaluation.answers import answer
from megatron_srp.evaluation.attack import DirectRequest
from megatron_srp.evaluation.behaviors import choose, is_held_out, load_behaviors
from megatron_srp.evaluation.column import Context
from megatron_srp.evaluation.hf_target import HFTarget
from megatron_srp.evaluation.types import Behavior, Defence, Response
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.threshold.calibration import (
    Cases,
    calibrate,
    false_stops,
    find_calibration,
    prompts_differ,
)
from megatron_srp.generation.threshold.recommend import MAX_FALSE_STOPS


def recalibrated(target: HFTarget, folder: Path, context: Context) -> tuple[HFTarget, dict[str, Any]]:
    """The target with a threshold of its own, written to `folder`/calibration.json, and what the report says about it.

    Without forced reflections there is no threshold to measure; with one that the user gave there is no need.
    """
    policy = target.options.policy
    if not context.recalibrates:
        return target, {}
    name = next((name for name in context.calibration_data if name in context.sources), None)
    kept, others = _split(name, context) if name else ([], [])
    measured = _unsafe(target, kept, context)
    if not name or not measured:
        names = " or ".join(context.calibration_data)
        return target, {"threshold": f"{policy.unsafe_threshold:g}, not measured on this model: no prompts of {names}"}
    benign = Cases(Path(context.sources[name]), measured, [True] * len(measured))
    found = calibrate(folder, benign, None, policy.stop_at, MAX_FALSE_STOPS)
    if found is None:
        return target, {"threshold": "none: the model is certain that benign prompts are unsafe"}
    found.write(folder)
    facts = {"threshold": found.threshold, "calibrated_on": f"{len(measured)} other prompts of {name}"}
    if checked := _unsafe(target, others, context):
        share, low, high = false_stops(checked, found.threshold)
        facts["benign_prompts_stopped"] = f"{share:.1%} of {len(checked)} (95%: {low:.1%} to {high:.1%})"
    return target.with_policy(replace(policy, unsafe_threshold=found.threshold)), facts


def _split(name: str, context: Context) -> tuple[list[Behavior], list[Behavior]]:
    """Benign prompts that are kept for calibrations, and as many others to check one."""
    rows = [behavior for behavior in load_behaviors(name, context.sources[name]) if not behavior.harmful]
    count = min(context.calibration_cases, context.limit or len(rows))
    kept, others = (choose([b for b in rows if is_held_out(b) is side], count)[0] for side in (True, False))
    return kept, others


def _unsafe(target: HFTarget, behaviors: Sequence[Behavior], context: Context) -> list[float]:
    """P(unsafe) of each answer, the largest of its forced reflections, where no threshold stops it."""
    policy = replace(target.options.policy, unsafe_threshold=1.0)
    silent = target.with_policy(policy)
    cases = list(DirectRequest().cases(behaviors, silent, Defence.GUARDED))
    responses, _ = answer(cases, silent, Defence.GUARDED, context, "calibration")
    return [forced_unsafe(response, policy) for response in responses if response is not None]


def warn_of_other_prompts(responses: Sequence[Response | None], context: Context) -> dict[str, str]:
    """A warning where the calibration of the model under test stops too many of these benign prompts; {} else."""
    policy = context.target.options.policy
    found = find_calibration(context.model) if context.recalibrates else None
    if found is None:
        return {}
    read = [forced_unsafe(response, policy) for response in responses if response is not None]
    warning = prompts_differ(sum(p >= found.threshold for p in read), len(read), found.max_false_stops)
    return {"warning": warning} if warning else {}


def forced_unsafe(response: Response, policy: GuardPolicy) -> float:
    """The largest P(unsafe) that its forced reflections read; 0 without any."""
    return max((min(forced.unsafe_of(policy), 1.0) for forced in response.forced), default=0.0)
