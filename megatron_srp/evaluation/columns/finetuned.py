"""Fine-tuning attacks: the model is trained further, and the result is asked directly.

Options: `attack` and its `options`, in which `{source: NAME}` stands for where that data set is; `data` is
what the attacked model is asked, and the rest is as for attacks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from megatron_srp.evaluation.attack import DirectRequest, load_attack
from megatron_srp.evaluation.column import ColumnResult, ColumnSpec, Context, NotRun
from megatron_srp.evaluation.columns.attacked import judged
from megatron_srp.evaluation.results import key_of
from megatron_srp.evaluation.types import Defence, ModelAttack


def finetuned(spec: ColumnSpec, context: Context) -> ColumnResult:
    """Options: see above."""
    from megatron_srp.evaluation.hf_target import HFTarget

    name, behaviors = context.behaviors(spec)
    given = {"seed": context.seed, **_with_sources(spec.options.get("options", {}), context)}
    attack = cast(ModelAttack, load_attack(spec.options["attack"], **given))
    key = key_of(attack.name, attack.settings, context.target.fingerprint)
    context.progress.say(f"{spec.name}: fine-tuning")
    folder = attack.attack(Path(context.model), context.store.folder / "models" / key)
    target = HFTarget(str(folder), context.target.options)
    defence = Defence(spec.options.get("defence", "unguarded"))
    cases = list(DirectRequest().cases(behaviors, target, defence))
    facts = {"data": name, "attack": dict(attack.settings)}
    return judged(spec, context, target, behaviors, cases, defence, facts)


def _with_sources(options: Mapping[str, Any], context: Context) -> dict[str, Any]:
    found = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and set(value) == {"source"}:
            if value["source"] not in context.sources:
                raise NotRun(f"no data to fine-tune on: give --data {value['source']}=FILE")
            value = context.sources[value["source"]]
        found[name] = value
    return found
