"""report.json, report.html and report.md: what the models of one or many runs know and disclose.

A record is `{"setting", "seed", "stage", "measurements"}`, as `evaluate_model` measures, or, where a model is
missing, `{"setting", "seed", "stage", "reason"}`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_srp import __version__
from megatron_srp.errors import UsageError
from megatron_srp.files import write_json, write_text
from megatron_srp.medsafetyworld.experiment.differences import differences
from megatron_srp.medsafetyworld.experiment.presets import PRESETS
from megatron_srp.medsafetyworld.measure import pictures, plot, tables
from megatron_srp.medsafetyworld.measure.attacks import ALL_ATTACKS
from megatron_srp.medsafetyworld.measure.findings import find
from megatron_srp.medsafetyworld.measure.paper import FIGURES, MODEL, SIZES, SOURCE
from megatron_srp.medsafetyworld.measure.scoring import OUTCOMES
from megatron_srp.medsafetyworld.measure.summary import (
    SETTINGS,
    STAGE_TITLES,
    Group,
    Groups,
    Record,
    group_records,
    setting_name,
    stage_name,
    summarize,
    title,
)
from megatron_srp.medsafetyworld.world.presets import PRESETS as WORLDS
from megatron_srp.medsafetyworld.world.queries import CLASSES
from megatron_srp.reports.pages import load_page

FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Context:
    """Where the figures come from.

    Attributes:
        commands: those that reproduce them.
        versions: of software, by name.
        not_run: pairs of what was left out, and why.
        machine: in words.
    """

    commands: Sequence[str] = ()
    versions: dict[str, str] = field(default_factory=dict)
    not_run: Sequence[tuple[str, str]] = ()
    machine: str = ""


_NO_CONTEXT = Context()


def write_report(results: Sequence[Record], out: Path, context: Context = _NO_CONTEXT) -> dict[str, Any]:
    """Write OUT/report.json, report.html and report.md, and return the content of the first.

    Args:
        results: records of one task; a part of those planned is fine.
        out: a folder, created if missing.

    Raises:
        UsageError: when no record has measurements, or they are of different tasks.
    """
    groups = group_records(results)
    measured = [record["measurements"] for record in results if record.get("measurements")]
    tasks = sorted({m["world"]["task"] for m in measured})
    if len(tasks) != 1:
        given = ", ".join(tasks) or "no measurements"
        raise UsageError(f"a report covers models of one task; these are of: {given}")
    content = {
        "format_version": FORMAT_VERSION,
        "software": f"megatron-srp {__version__}",
        "task": tasks[0],
        "findings": [finding.to_json() for finding in find(groups)],
        "ingredients": tables.ingredients(groups),
        "policies": tables.policies(groups),
        "two_by_two": tables.two_by_two(groups),
        "summary": summarize(groups),
        "paper": {"source": SOURCE, "model": MODEL, "size": SIZES[tasks[0]], "figures": FIGURES[tasks[0]]},
        "differences": _differences(measured, tasks[0]),
        "machine": context.machine,
        "commands": list(context.commands),
        "versions": dict(context.versions),
        "not_run": _not_run(groups, context),
        "results": list(results),
    }
    out.mkdir(parents=True, exist_ok=True)
    page = load_page("world_report.html").render(**_page(content, groups))
    write_json(out / "report.json", json.loads(json.dumps(content)))
    write_text(out / "report.html", page)
    write_text(out / "report.md", "\n".join(tables.markdown(content).values()))
    return content


def _differences(measured: Sequence[dict[str, Any]], task: str) -> list[dict[str, str]]:
    """From the paper's experiment, of the preset that was run; empty for a world of one's own."""
    preset = measured[0]["world"]["preset"]
    if preset not in PRESETS or task not in WORLDS[preset]:
        return []
    return [{"what": what, "paper": paper, "ours": ours} for what, paper, ours in differences(preset, task)]


def _not_run(groups: Groups, context: Context) -> list[dict[str, str]]:
    missing = [record for group in groups.values() for record in group.missing]
    found = [(f"{r['setting']}, seed {r['seed']}, {stage_name(r['stage'])}", str(r.get("reason", ""))) for r in missing]
    settings, stages = ({key[i] for key in groups} for i in (0, 1))
    found += [(name, "not among the settings of this run") for key, name in SETTINGS.items() if key not in settings]
    found += [(name, "not among the stages of this run") for key, name in STAGE_TITLES.items() if key not in stages]
    return [{"what": what, "reason": reason} for what, reason in [*found, *context.not_run]]


def _page(content: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """What the template shows."""
    models = [group for group in groups.values() if group.models]
    rows = {(row["setting"], row["stage"]): row for row in content["summary"]}
    asked = [group for group in models if group.cell("general")]
    return {
        "content": content,
        "setting_name": setting_name,
        "stage_name": stage_name,
        "title": title,
        "mark": plot.legend_mark,
        "models": models,
        "by_stage": _by_stage(models, rows),
        "worlds": _worlds(models),
        "figure": pictures.two_by_two(content["two_by_two"]),
        "cells": tables.CELLS,
        "columns": tables.COLUMNS,
        "policy_columns": tables.POLICY_COLUMNS,
        "ranks": tables.format_ranks,
        "policy_name": tables.policy_name,
        "outcomes": OUTCOMES,
        "answers": lambda group, attack: tables.after_a_prefill(list(group.models.values()), attack),
        "plots": pictures.scatters(asked, content["paper"]["figures"]),
        "settings": list(dict.fromkeys(group.setting for group in asked)),
        "next_to_paper": _next_to_paper(groups, content["paper"]["figures"]),
        "attacks": [a for a in ALL_ATTACKS if any(a.name in m["attacks"] for g in asked for m in g.models.values())],
        "classes": CLASSES,
        "asked": asked,
        "rows": rows,
        "mean": _mean,
        "curves": pictures.threshold_curves(asked),
        "samples": [(group, seed, group.models[seed]["samples"]) for group in models for seed in [min(group.models)]],
    }


def _mean(group: Group, path: Sequence[str], digits: int = 1) -> str:
    """The mean over seeds of the value at that path of the measurements, as text; a dash where there is no value."""
    found: list[Any] = list(group.models.values())
    for key in path:
        found = [entry[key] for entry in found if isinstance(entry, dict) and key in entry]
    values = [value for value in found if value is not None]
    return f"{sum(values) / len(values):.{digits}f}" if values else "–"


def _by_stage(models: Sequence[Group], rows: dict[tuple[str, str], Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for group in models:
        if group.cell("general"):
            found.setdefault(group.stage, []).append(rows[group.setting, group.stage])
    return found


def _worlds(models: Sequence[Group]) -> list[str]:
    """What was measured, in words, each size once; worlds of one size differ in how many facts a class has."""
    asked: dict[str, list[tuple[int, int]]] = {}
    for group in models:
        for measured in group.models.values():
            classes = measured["world"]["test"].values()
            most = max(entry["facts"] for entry in classes), max(entry["outcomes"] for entry in classes)
            asked.setdefault(_size(measured), []).append(most)
    return [
        f"{size}, on at most {_span(facts)} facts and {_span(outcomes)} outcomes"
        for size, pairs in asked.items()
        for facts, outcomes in [zip(*pairs, strict=True)]
    ]


def _size(measured: dict[str, Any]) -> str:
    world, parameters = measured["world"], measured["model"]["parameters"]
    entities = ", ".join(f"{n:,} {name}" for name, n in world["entities"].items() if n and name != "unsafe_outcomes")
    questions = max(entry["questions"] for entry in world["test"].values())
    size = f"{parameters / 1e6:,.0f}M" if parameters >= 1e7 else f"{parameters / 1e6:.2g}M"
    return (
        f"preset {world['preset']}: {entities}, {sum(world['edges'].values()):,} edges; {size} parameters; "
        f"{questions:,} questions per class"
    )


def _span(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _next_to_paper(groups: Groups, figures: Any) -> list[dict[str, Any]]:
    """A row for each setting and stage that was published."""
    keys = [(setting, stage) for setting, stages in figures.items() for stage in stages]
    order = {key: i for i, key in enumerate((s, t) for s in SETTINGS for t in STAGE_TITLES)}
    rows = []
    for setting, stage in sorted(keys, key=lambda key: order.get(key, len(order))):
        group = groups.get((setting, stage), Group(setting, stage))
        measured = {metric: group.cell(metric) for metric in ("general", "asr", "asr_strict")}
        rows.append({"setting": setting, "stage": stage, **measured, "paper": figures[setting][stage]})
    return rows
