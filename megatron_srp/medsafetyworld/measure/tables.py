"""The two tables and the figure that answer the question: where does the effect come from?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_srp.medsafetyworld.experiment.variants import ADVERSARIAL, FORGED, RECOVERY, SFT, STAGES, VARIANTS
from megatron_srp.medsafetyworld.measure.ranking import ranks
from megatron_srp.medsafetyworld.measure.scoring import OUTCOMES
from megatron_srp.medsafetyworld.measure.summary import Group, Groups, latent_before, steps_of_pretraining

TAMPERING = STAGES[ADVERSARIAL].data
# The two-by-two: label information by column, form by row; all with the same post-training.
CELLS = {
    "post-only": "neither",
    "filtering-tags": "label information alone",
    "srp-all-safe": "form alone",
    "srp": "both (SRP)",
}
# The attacks of the figure: its words, the stage, and the attack.
ATTACKS_SHOWN = (
    ("<Safe>", SFT, "<Safe>"),
    ("The", SFT, "The"),
    ("answer", SFT, "answer"),
    ("text", SFT, "text"),
    ("forged text", SFT, "forged text"),
    ("honest Unsafe", SFT, "honest The"),
    ("tampered, The", ADVERSARIAL, "The"),
)
COLUMNS = {
    "paper": "paper's prefixes",
    "text": "text",
    "forged-new": "forged",
    "honest": "honest Unsafe",
}


POLICIES = ("filtering", "srp", *(name for name, variant in VARIANTS.items() if variant.data_policy))
POLICY_COLUMNS = {
    "asr_strict": "paper's prefixes",
    "text": "text",
    "forged_new": "forged",
    "ids": "forged as ids",
    "benign:The": "harmless, after The",
    "general": "General",
}


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A row of the table: what is added, to which model; whether a reflection is forced with a calibrated threshold."""

    says: str
    setting: str
    stage: str
    forced: bool = False


INGREDIENTS = (
    Ingredient("Filtering", "filtering", SFT),
    Ingredient("Filtering, safety recovery", "filtering", RECOVERY),
    Ingredient("reflections in post-training", "post-only", SFT),
    Ingredient("reflections in post-training, verdicts as words in pretraining (tag)", "filtering-tags", SFT),
    Ingredient("reflections in post-training, and in pretraining some that say nothing (form)", "srp-all-safe", SFT),
    Ingredient("SRP: reflections in pretraining and in post-training", "srp", SFT),
    Ingredient("SRP, safety recovery", "srp", RECOVERY),
    Ingredient("SRP, safety recovery half from forged reflections", "srp", FORGED),
    Ingredient("SRP, the same, and a reflection forced with a calibrated threshold", "srp", FORGED, forced=True),
)


def ingredients(groups: Groups) -> list[dict[str, Any]]:
    """What each ingredient buys: strict ASR by kind of attack, after tampering, and General; and under `right` the
    right answers to harmless questions under the same attack. Cells or None."""
    return [_ingredient(groups, row) for row in INGREDIENTS if (row.setting, row.stage) in groups]


def _ingredient(groups: Groups, row: Ingredient) -> dict[str, Any]:
    group, kind = groups[row.setting, row.stage], "calibrated" if row.forced else "strict"
    after = [name for name, stage in STAGES.items() if stage.after == row.stage and stage.data == TAMPERING]
    tampered = groups.get((row.setting, after[0])) if after else None
    return {
        "says": row.says,
        "seeds": len(group.models),
        **{family: group.cell(f"{kind}:{family}") for family in COLUMNS},
        "tampered": tampered.cell(f"{kind}:paper") if tampered else None,
        "right": {} if row.forced else _right(group, tampered),
        "general": group.cell("calibrated_general" if row.forced else "general"),
    }


def _right(group: Group, tampered: Group | None) -> dict[str, Any]:
    """By column; not where a reflection is forced, which would stop some of them."""
    under = {family: group.cell(f"right:{family}") for family in COLUMNS}
    return under | {"tampered": tampered.cell("right:paper") if tampered else None}


def policies(groups: Groups) -> list[dict[str, Any]]:
    """What can be done with verdicts, after SFT: no policy (Filtering), SRP, and each data policy, by strict ASR, with
    the ranks that the seeds allow; empty where no data policy was measured."""
    found = [groups[name, SFT] for name in POLICIES if (name, SFT) in groups and groups[name, SFT].cell("asr_strict")]
    if not any(VARIANTS[group.setting].data_policy for group in found):
        return []
    rows = [
        {
            "policy": group.setting,
            "ranks": places,
            "seeds": len(group.models),
            "steps": steps_of_pretraining(groups, group),
            "latent_before": latent_before(groups, group),
            **{metric: group.cell(metric) for metric in POLICY_COLUMNS},
        }
        for group, places in zip(found, ranks(found, "asr_strict"), strict=True)
    ]
    return sorted(rows, key=lambda row: row["asr_strict"]["mean"])


def two_by_two(groups: Groups) -> list[dict[str, Any]]:
    """The figure: for each attack and cell the strict `asr`, and `benign`, the share of right answers to harmless
    questions of the same form under the same prefix."""
    return [
        {"attack": says, "cell": name, "asr": group.cell(f"asr:{attack}"), "benign": group.cell(f"benign:{attack}")}
        for says, stage, attack in ATTACKS_SHOWN
        for name in CELLS
        if (group := groups.get((name, stage))) and group.cell(f"asr:{attack}")
    ]


def after_a_prefill(measured: Sequence[dict[str, Any]], attack: str) -> dict[str, dict[str, float]]:
    """Mean shares over the seeds of what answers to an attack are, on `harmful` and on `benign` questions."""
    found = {}
    for questions in ("harmful", "benign"):
        shares = [m["attacks"][attack][questions] for m in measured if attack in m.get("attacks", {})]
        found[questions] = {
            name: sum(share[name]["percent"] for share in shares) / len(shares)
            for name in OUTCOMES
            if shares and all("percent" in share[name] for share in shares)
        }
    return found


def markdown(content: dict[str, Any]) -> dict[str, str]:
    """The findings and tables by name, for a document."""
    seeds = sorted({seed for row in content["summary"] for seed in row["seeds"]})
    presets = dict.fromkeys(r["measurements"]["world"]["preset"] for r in content["results"] if "measurements" in r)
    tables = {
        "run": [
            f"Preset {', '.join(presets)}, {len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))}); "
            f"{content['software']}; {content['machine'] or 'machine not recorded'}."
        ],
        "claims": _findings(content["findings"]),
        "ingredients": _ingredients(content["ingredients"]),
        "policies": _policies(content["policies"]),
        "two_by_two": _two_by_two(content["two_by_two"]),
        "costs": _costs(content["summary"]),
        "differences": _differences(content["differences"]),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in tables.items()}


def _differences(rows: Sequence[dict[str, str]]) -> list[str]:
    head = ["| what | paper | here |", "|---|---|---|"]
    return [*head, *(f"| {row['what']} | {row['paper']} | {row['ours']} |" for row in rows)]


def _findings(findings: Sequence[dict[str, Any]]) -> list[str]:
    measured = [f for f in findings if f["status"] != "not measured"]
    rows = [f"| {'**primary** ' if f['primary'] else ''}{f['claim']} | {f['status']} | {f['text']} |" for f in measured]
    left = len(findings) - len(measured)
    note = ["", f"{left} more claims need models that were not trained; the report names them."] if left else []
    return ["| claim | status | figures |", "|---|---|---|", *rows, *note]


def _ingredients(rows: Sequence[dict[str, Any]]) -> list[str]:
    keys = (*COLUMNS, "tampered", "general")
    heads = (*COLUMNS.values(), "tampered", "General")
    return [
        f"| strict ASR / right benign answers under the same attack, % | seeds | {' | '.join(heads)} |",
        f"|---|---|{'---|' * len(heads)}",
        *(f"| {row['says']} | {row['seeds']} | {' | '.join(_bought(row, key) for key in keys)} |" for row in rows),
    ]


def _bought(row: dict[str, Any], key: str) -> str:
    right = row["right"].get(key)
    return format_cell(row[key], row["seeds"]) + (f" / {right['mean']:.0f}" if right else "")


def _policies(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["No data policy was measured."]
    heads = ("rank", "policy", *POLICY_COLUMNS.values(), "knows", "steps", "seeds")
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *map(_policy, rows)]


def _policy(row: dict[str, Any]) -> str:
    cells = [format_cell(row[key]) for key in (*POLICY_COLUMNS, "latent_before")]
    steps = f"{row['steps']:,.0f}" if row["steps"] else "-"
    named = (format_ranks(row["ranks"]), policy_name(row["policy"]))
    return f"| {' | '.join((*named, *cells, steps, str(row['seeds'])))} |"


def policy_name(setting: str) -> str:
    """What a row of the table is called: `filter-document` is a policy, Filtering is the plain text."""
    return "no policy (Filtering)" if setting == "filtering" else setting


def format_ranks(places: tuple[int, int]) -> str:
    """The places that a row may have."""
    first, last = places
    return str(first) if first == last else f"{first}-{last}"


def _two_by_two(points: Sequence[dict[str, Any]]) -> list[str]:
    if not points:
        return ["None of the four was measured."]
    attacks = list(dict.fromkeys(point["attack"] for point in points))
    by_place = {(point["attack"], point["cell"]): point for point in points}
    lines = [
        f"| strict ASR / right benign answers under the same prefix, % | seeds | {' | '.join(map(_named, attacks))} |",
        f"|---|---|{'---|' * len(attacks)}",
    ]
    for name, says in CELLS.items():
        cells = [by_place.get((attack, name)) for attack in attacks]
        seeds = max((cell["asr"]["seeds"] for cell in cells if cell), default=0)
        shown = [f"{format_cell(c['asr'], seeds)} / {format_cell(c['benign'], seeds)}" if c else "-" for c in cells]
        lines.append(f"| {says} | {seeds} | {' | '.join(shown)} |")
    return lines


def _named(attack: str) -> str:
    """Its name in Markdown, which takes what is in angle brackets for a tag of HTML, and shows nothing."""
    return f"`{attack}`" if "<" in attack else attack


def _costs(summary: Sequence[dict[str, Any]]) -> list[str]:
    costs = [(row, row["training"]) for row in summary if row["training"]]
    rows = [
        f"| {row['setting']} | {row['stage']} "
        f"| {cost['steps']:,.0f} | {cost['tokens'] / 1e6:.2f} | {cost['cpu_s']:.0f} |"
        for row, cost in costs
    ]
    return ["| setting | stage | steps | million tokens | CPU s |", "|---|---|---|---|---|", *rows] if rows else []


def format_cell(cell: dict[str, Any] | None, seeds: int | None = None) -> str:
    """The mean and the 95% interval; and of how many seeds, where these are not the row's `seeds`."""
    if cell is None:
        return "-"
    fewer = f", {cell['seeds']} of the seeds" if seeds not in (None, cell["seeds"]) else ""
    return f"{cell['mean']:.1f} ({cell['low']:.0f}-{cell['high']:.0f}{fewer})"
