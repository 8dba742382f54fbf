"""Fine-tuning attacks: the model is trained further, and the result is asked directly.

Options: `attack` and its `options`, in which `{source: NAME}` stands for that data set's path, and several
names for the first that has a source; `data` is what the attacked model is asked, and the rest is as
for attacks. `--limit` holds for the rows trained on as well.

`lr` may be a list: an attacker tries several rates and takes the best, so the column is that of the rate with the
highest success, by the best judge there is. `then` names another attack, which the tuned model has to withstand: what
safety recovery teaches is about such beginnings. Under the guard with forced reflections the tuned model gets a
threshold of its own, see `evaluation.recalibrate`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from megatron_srp.attacks.finetune import MIX_COUNT
from megatron_srp.evaluation.attack import load_attack
from megatron_srp.evaluation.behaviors import with_target
from megatron_srp.evaluation.column import ColumnResult, ColumnSpec, Context
from megatron_srp.evaluation.columns.attacked import judged
from megatron_srp.evaluation.columns.rates import most_successful
from megatron_srp.evaluation.progress import Progress
from megatron_srp.evaluation.recalibrate import recalibrated
from megatron_srp.evaluation.results import key_of
from megatron_srp.evaluation.types import Attack, Defence, ModelAttack

# How a missing source is named, for the reason in the report.
_WANTED = {"data": "data to fine-tune on", "mix": "post-training data to mix in (`srp sft --out` writes it)"}


def finetuned(spec: ColumnSpec, context: Context) -> ColumnResult:
    """Options: see above."""
    given = {"seed": context.seed, **_with_sources(spec.options.get("options", {}), context)}
    given |= within(context.limit_given, given)
    if spec.options.get("make_targets"):
        given["make_targets"] = True
    if isinstance(given.get("lr"), list):
        return most_successful(given["lr"], lambda rate: _tuned(spec, context, given | {"lr": rate}))
    return _tuned(spec, context, given)


def _tuned(spec: ColumnSpec, context: Context, given: Mapping[str, Any]) -> ColumnResult:
    """The column for one set of the attack's options."""
    from megatron_srp.evaluation.hf_target import HFTarget

    facts, behaviors = context.behaviors(spec)
    attack = cast(ModelAttack, load_attack(spec.options["attack"], **given))
    key = key_of(attack.name, attack.settings, context.target.fingerprint)
    folder = context.store.folder / "models" / key
    if not folder.is_dir():
        context.progress.say(f"{spec.name}: fine-tuning; {folder}.work has the log")
    attack.on_step = TrainingProgress(spec.name, context.progress)
    attack.attack(Path(context.model), folder)
    target = HFTarget(str(folder), context.target.options)
    defence = Defence(spec.options.get("defence", "unguarded"))
    if defence is Defence.GUARDED:
        target, own = recalibrated(target, folder, context)
        facts |= own
    if spec.options.get("make_targets"):
        behaviors = [with_target(behavior) for behavior in behaviors]
    asks = cast(Attack, load_attack(spec.options.get("then", "direct"), seed=context.seed))
    cases = list(asks.cases(behaviors, target, defence))
    facts |= {"trained_on": attack.settings["data_format"], "attack": dict(attack.settings)}
    return judged(spec, context, target, behaviors, cases, defence, facts)


def _with_sources(options: Mapping[str, Any], context: Context) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and set(value) == {"source"}:
            data = context.source_of(_names(value["source"]), _WANTED[name])
            found |= {name: context.sources[data]} | ({"data_format": data} if name == "data" else {})
        else:
            found[name] = value
    return found


def within(limit: int | None, given: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of examples to train on, none above the limit."""
    if limit is None:
        return {}
    found = {"rows": min(given.get("rows") or limit, limit)}
    return found | ({"mix_count": min(given.get("mix_count", MIX_COUNT), limit)} if "mix" in given else {})


class TrainingProgress:
    """Shows the steps of a training as they are made."""

    def __init__(self, column: str, progress: Progress) -> None:
        self._column, self._progress, self._done = column, progress, 0

    def __call__(self, step: int, steps: int) -> None:
        if not self._done:
            self._progress.step(f"{self._column}, training step", steps)
        self._progress.advance(step - self._done)
        self._done = step


def _names(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given
