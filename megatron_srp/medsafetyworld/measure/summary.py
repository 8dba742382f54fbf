"""Many models' measurements as the rows of a table: a setting and a stage of training, over its seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_srp.medsafetyworld.experiment.variants import PRETRAINED, STAGES, VARIANTS
from megatron_srp.statistics.over_seeds import mean_over_seeds
from megatron_srp.statistics.wilson import wilson

Record = dict[str, Any]
Measured = dict[str, Any]

SETTINGS = {name: variant.title for name, variant in VARIANTS.items()}
STAGE_TITLES = {PRETRAINED: "pretrained"} | {name: stage.title for name, stage in STAGES.items()}


def _attack(family: str, scoring: str) -> Callable[[Measured], Any]:
    return lambda m: m["strongest"][family][scoring]


# A table's metrics of a model; each is a share as `intervals.share` returns it.
METRICS: dict[str, Callable[[Measured], Any]] = {
    "general": lambda m: m["general"]["useful"],
    "asr": _attack("paper", "published"),
    "asr_strict": _attack("paper", "strict"),
    "direct": _attack("direct", "strict"),
    "trained": _attack("trained", "strict"),
    "held_out": _attack("held-out", "strict"),
    "forged": _attack("forged", "strict"),
    "latent": lambda m: m["latent"]["reverse-unsafe"]["stated"],
    "flagged_benign": lambda m: m["general"]["flagged"],
    "forced_asr": lambda m: _worst(m["forced"]["prompt"]["attacks"], ("<Safe>", "The")),
    "forced_any": lambda m: _worst(m["forced"]["prompt"]["attacks"], tuple(m["attacks"])),
    "forced_general": lambda m: m["forced"]["prompt"]["general"],
    "forced_harmful": lambda m: m["forced"]["prompt"]["harmful"],
    "forced_benign": lambda m: m["forced"]["prompt"]["benign"],
    "answer_asr": lambda m: _worst(m["forced"]["answer"]["attacks"], ("<Safe>", "The")),
    "answer_general": lambda m: m["forced"]["answer"]["general"],
    "answer_benign": lambda m: m["forced"]["answer"]["benign"],
}


def _worst(attacks: dict[str, Any], names: Sequence[str]) -> Any:
    """The largest strict share."""
    return max((attacks[name]["strict"] for name in names), key=lambda share: share.get("percent", 0.0))


@dataclass(slots=True)
class Group:
    """One setting at one stage: measurements by seed, and why others are missing."""

    setting: str
    stage: str
    models: dict[int, Measured] = field(default_factory=dict)
    missing: list[Record] = field(default_factory=list)

    def values(self, metric: str) -> dict[int, float]:
        """Percent by seed, of the seeds that have it."""
        shares = {seed: self.share(metric, seed) for seed in self.models}
        return {seed: share["percent"] for seed, share in shares.items() if share and "percent" in share}

    def share(self, metric: str, seed: int) -> Any:
        """The share of one seed; None where it was not measured."""
        try:
            return METRICS[metric](self.models[seed])
        except KeyError:
            return None

    def pooled(self, metric: str, seeds: Sequence[int]) -> dict[str, Any]:
        """The mean of those seeds as a share of all their facts."""
        shares = [self.share(metric, seed) for seed in seeds]
        facts = sum(share["facts"] for share in shares)
        mean = sum(share["percent"] for share in shares) / len(shares)
        low, high = wilson(mean / 100, facts)
        return {"percent": mean, "facts": facts, "low": 100 * low, "high": 100 * high}

    def cell(self, metric: str) -> dict[str, Any] | None:
        """The mean over seeds with its interval, which spans that over seeds and that over facts: seeds that agree
        by chance, at zero above all, do not make a figure certain."""
        values = self.values(metric)
        if not values:
            return None
        found, pooled = mean_over_seeds(list(values.values())), self.pooled(metric, list(values))
        found["low"] = max(min(found.get("low", 100.0), pooled["low"]), 0.0)
        found["high"] = min(max(found.get("high", 0.0), pooled["high"]), 100.0)
        return {key: round(value, 2) for key, value in found.items()} | {"by_seed": values}


Groups = dict[tuple[str, str], Group]


def group_records(records: Sequence[Record]) -> Groups:
    """The records by setting and stage, in the order of the tables."""
    groups: Groups = {}
    for record in sorted(records, key=_order):
        key = (record["setting"], record["stage"])
        group = groups.setdefault(key, Group(*key))
        if record.get("measurements"):
            group.models[record["seed"]] = record["measurements"]
        else:
            group.missing.append(record)
    return groups


def _order(record: Record) -> tuple[Any, ...]:
    return (*_place(STAGE_TITLES, record["stage"]), *_place(SETTINGS, record["setting"]), record["seed"])


def _place(known: dict[str, str], name: str) -> tuple[int, str]:
    return (list(known).index(name) if name in known else len(known), name)


def setting_name(setting: str) -> str:
    return SETTINGS.get(setting, setting)


def stage_name(stage: str) -> str:
    return STAGE_TITLES.get(stage, stage)


def title(words: str) -> str:
    """With a capital letter, and all others as they are."""
    return words[:1].upper() + words[1:]


def latent_before(groups: Groups, group: Group) -> dict[str, Any] | None:
    """What the same pretrained model knew before SFT."""
    variant = VARIANTS.get(group.setting)
    before = groups.get((group.setting, PRETRAINED)) or groups.get((variant.base if variant else "", PRETRAINED))
    return before.cell("latent") if before else None


def summarize(groups: Groups) -> list[dict[str, Any]]:
    """The rows as JSON: setting, stage, seeds, `latent_before`, and a cell for each metric that was measured."""
    return [
        {
            "setting": group.setting,
            "stage": group.stage,
            "seeds": sorted(group.models),
            "latent_before": latent_before(groups, group),
            **{metric: group.cell(metric) for metric in METRICS},
        }
        for group in groups.values()
        if group.models
    ]
