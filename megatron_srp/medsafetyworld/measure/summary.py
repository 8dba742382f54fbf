"""Many models' measurements as the rows of a table: a setting and a stage of training, over its seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from statistics import fmean
from typing import Any

from megatron_srp.medsafetyworld.experiment.variants import PRETRAINED, STAGES, VARIANTS
from megatron_srp.medsafetyworld.measure.attacks import ALL_ATTACKS, FAMILIES
from megatron_srp.statistics.combination import combine

Record = dict[str, Any]
Measured = dict[str, Any]

SETTINGS = {name: variant.title for name, variant in VARIANTS.items()}
STAGE_TITLES = {PRETRAINED: "pretrained"} | {name: stage.title for name, stage in STAGES.items()}


def _attack(family: str, scoring: str) -> Callable[[Measured], Any]:
    return lambda m: m["strongest"][family][scoring]


def _calibrated(key: str) -> Callable[[Measured], Any]:
    return lambda m: m["forced"]["prompt"]["calibrated"][key]


def _of_attack(name: str, *path: str) -> Callable[[Measured], Any]:
    return lambda m: reduce(getitem, path, m["attacks"][name])


def _right_under(family: str) -> Callable[[Measured], Any]:
    """Right answers to harmless questions under the family's most successful attack."""
    return lambda m: m["attacks"][m["strongest"][family]["strict"]["name"]]["benign"]["right"]


def _calibrated_family(family: str) -> Callable[[Measured], Any]:
    names = [attack.name for attack in ALL_ATTACKS if attack.family == family]
    return lambda m: _worst(m["forced"]["prompt"]["calibrated"]["attacks"], names)


# A table's metrics of a model; each is a share as `over_seeds.share` returns it.
METRICS: dict[str, Callable[[Measured], Any]] = {
    "general": lambda m: m["general"]["useful"],
    "asr": _attack("paper", "published"),
    "asr_strict": _attack("paper", "strict"),
    "direct": _attack("direct", "strict"),
    "answer": _attack("answer", "strict"),
    "text": _attack("text", "strict"),
    "untrained": lambda m: _strongest_untrained(m["attacks"]),
    "forged": _attack("forged", "strict"),
    "forged_new": _attack("forged-new", "strict"),
    "honest": _attack("honest", "strict"),
    "ids": _attack("ids", "strict"),
    "latent": lambda m: m["latent"]["reverse-unsafe"]["stated"],
    "latent_told": lambda m: m["latent"]["reverse-unsafe"]["told"],
    "latent_inferred": lambda m: m["latent"]["reverse-unsafe"]["inferred"],
    "flagged_benign": lambda m: m["general"]["flagged"],
    "forced_asr": lambda m: _worst(m["forced"]["prompt"]["attacks"], ("<Safe>", "The")),
    "forced_any": lambda m: _worst(m["forced"]["prompt"]["attacks"], tuple(m["attacks"])),
    "forced_general": lambda m: m["forced"]["prompt"]["general"],
    "forced_harmful": lambda m: m["forced"]["prompt"]["harmful"],
    "forced_benign": lambda m: m["forced"]["prompt"]["benign"],
    "calibrated_asr": lambda m: _worst(m["forced"]["prompt"]["calibrated"]["attacks"], ("<Safe>", "The")),
    "calibrated_any": lambda m: _worst(m["forced"]["prompt"]["calibrated"]["attacks"], tuple(m["attacks"])),
    "calibrated_benign": _calibrated("benign"),
    "calibrated_general": _calibrated("general"),
    "other_prompts_benign": lambda m: m["forced"]["prompt"]["other_prompts"]["benign"],
    "other_prompts_any": lambda m: _worst(m["forced"]["prompt"]["other_prompts"]["attacks"], tuple(m["attacks"])),
    "answer_asr": lambda m: _worst(m["forced"]["answer"]["attacks"], ("<Safe>", "The")),
    "answer_general": lambda m: m["forced"]["answer"]["general"],
    "answer_benign": lambda m: m["forced"]["answer"]["benign"],
}
# By attack and by family of attacks: strict ASR, right benign answers under the same attack, and the ASR that is left
# with a reflection forced at a calibrated threshold.
METRICS |= {f"asr:{attack.name}": _of_attack(attack.name, "strict") for attack in ALL_ATTACKS}
METRICS |= {f"benign:{attack.name}": _of_attack(attack.name, "benign", "right") for attack in ALL_ATTACKS}
METRICS |= {f"strict:{family}": _attack(family, "strict") for family in FAMILIES}
METRICS |= {f"right:{family}": _right_under(family) for family in FAMILIES}
METRICS |= {f"calibrated:{family}": _calibrated_family(family) for family in FAMILIES}


def _strongest_untrained(attacks: dict[str, Any]) -> Any:
    """The largest strict share of attacks without a reflection that no recovery begins as."""
    families = ("paper", "answer", "text")
    return _worst(attacks, [name for name, a in attacks.items() if a["family"] in families and not a["trained"]])


def _worst(attacks: dict[str, Any], names: Sequence[str]) -> Any:
    """The largest strict share."""
    return max((attacks[name]["strict"] for name in names), key=lambda share: share.get("percent", 0.0))


@dataclass(slots=True)
class Group:
    """One setting at one stage: measurements by seed, and why others are missing."""

    setting: str
    stage: str
    models: dict[int, Measured] = field(default_factory=dict)
    trainings: dict[int, Any] = field(default_factory=dict)
    missing: list[Record] = field(default_factory=list)

    def values(self, metric: str) -> dict[int, float]:
        """Percent by seed, of the seeds that have it."""
        return {seed: share["percent"] for seed, share in self.shares(metric).items()}

    def share(self, metric: str, seed: int) -> Any:
        """The share of one seed; None where it was not measured."""
        try:
            return METRICS[metric](self.models[seed])
        except KeyError:
            return None

    def shares(self, metric: str) -> dict[int, Any]:
        """The shares by seed, of the seeds that have it."""
        found = {seed: self.share(metric, seed) for seed in self.models}
        return {seed: share for seed, share in found.items() if share and "percent" in share}

    def cell(self, metric: str) -> dict[str, Any] | None:
        """The mean over seeds with its interval, which spans that over seeds and that over outcomes."""
        found = combine([(1.0, self.shares(metric))])
        if found is None:
            return None
        values = self.values(metric)
        ends = {"low": max(found.low, 0.0), "high": min(found.high, 100.0)}
        spread = {"least": min(values.values()), "most": max(values.values())}
        rounded = {key: round(value, 2) for key, value in {"mean": found.mean, **spread, **ends}.items()}
        return {**rounded, "seeds": len(values), "by_seed": values}


Groups = dict[tuple[str, str], Group]


def group_records(records: Sequence[Record]) -> Groups:
    """The records by setting and stage, in the order of the tables."""
    groups: Groups = {}
    for record in sorted(records, key=_order):
        key = (record["setting"], record["stage"])
        group = groups.setdefault(key, Group(*key))
        if record.get("measurements"):
            group.models[record["seed"]] = record["measurements"]
            group.trainings[record["seed"]] = record.get("training")
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


def _pretrained(groups: Groups, group: Group) -> Sequence[Group]:
    """The pretrained model that the group's started from, under its own name and under that of its owner."""
    variant = VARIANTS.get(group.setting)
    names = (group.setting, variant.base if variant else "")
    return [groups[name, PRETRAINED] for name in names if (name, PRETRAINED) in groups]


def latent_before(groups: Groups, group: Group) -> dict[str, Any] | None:
    """What the same pretrained model knew before SFT."""
    found = _pretrained(groups, group)
    return found[0].cell("latent") if found else None


def steps_of_pretraining(groups: Groups, group: Group) -> float | None:
    """How many steps the pretrained model was trained for, the mean over the seeds; None where it is not recorded."""
    costs = [cost for before in _pretrained(groups, group) if (cost := _training(before))]
    return costs[0]["steps"] if costs else None


def _training(group: Group) -> dict[str, float] | None:
    """Means over the seeds of the steps, tokens and CPU seconds of its training, where they are recorded."""
    found = [training for training in group.trainings.values() if training]
    return {key: fmean(training[key] for training in found) for key in found[0]} if found else None


def summarize(groups: Groups) -> list[dict[str, Any]]:
    """The rows as JSON: setting, stage, seeds, `latent_before`, `training`, and a cell for each metric, or None."""
    return [
        {
            "setting": group.setting,
            "stage": group.stage,
            "seeds": sorted(group.models),
            "latent_before": latent_before(groups, group),
            "training": _training(group),
            **{metric: group.cell(metric) for metric in METRICS},
        }
        for group in groups.values()
        if group.models
    ]
