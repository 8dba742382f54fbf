"""A world of a few thousand texts, and a slow reading of its files that shares no code with their making."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from megatron_srp.medsafetyworld.world.phrases import DANGERS
from megatron_srp.medsafetyworld.world.presets import PRESETS, Rendering, WorldSpec
from megatron_srp.medsafetyworld.world.templates import pick_templates

_SIZES = {
    "single-hop": {"compounds": 24, "outcomes": 10, "edges": {"single": 40, "pair": 16}},
    "two-hop": {"compounds": 14, "mediators": 10, "outcomes": 8, "edges": {"join": 14}},
}
TASKS = list(_SIZES)


def tiny(task: str, style: str = "short", texts: int = 12) -> WorldSpec:
    """The miniature's shape with a handful of everything."""
    spec = PRESETS["mini"][task]
    renderings = {name: Rendering(texts, r.probability) for name, r in spec.renderings.items()}
    counts = {"sft_samples": 200, "sft_templates": 4, "test_per_class": 12, "benign_samples": 30}
    sizes: dict[str, Any] = {**_SIZES[task], **counts, "adversarial_samples": 20, "shard_texts": 500}
    return replace(spec, renderings=renderings, style=style, **sizes)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_corpus(folder: Path) -> list[str]:
    """All texts, in order."""
    return [line["text"] for path in sorted((folder / "corpus").iterdir()) for line in read_lines(path)]


class Reader:
    """Tells what a text of a world says: by its words, looked up among names and templates."""

    def __init__(self, folder: Path) -> None:
        self.manifest = json.loads((folder / "world.json").read_text())
        graph = json.loads((folder / "graph.json").read_text())
        self.unsafe = {outcome["name"]: outcome["unsafe"] for outcome in graph["outcomes"]}
        self.kinds = dict.fromkeys(graph["compounds"], "A") | dict.fromkeys(graph["mediators"], "B")
        self.kinds |= dict.fromkeys(self.unsafe, "C")
        self.pattern = re.compile("|".join(map(re.escape, self.kinds)))
        self.edges = {
            kind: {tuple(self._name(graph, column, n) for column, n in zip(columns, edge, strict=True)) for edge in edges}
            for kind, columns in graph["columns"].items()
            for edges in [graph["edges"][kind]]
        }  # fmt: skip
        self.directions = {}
        style = self.manifest["spec"]["style"]
        for name, used in self.manifest["templates"].items():
            for template in pick_templates(name, style, used["used"]):
                self.directions[re.sub(r"\{(\w)\d?\}", r"\1", template.text)] = name

    @staticmethod
    def _name(graph: dict, column: str, number: int) -> str:
        entity = graph[{"A": "compounds", "B": "mediators", "C": "outcomes"}[column[0]]][number]
        return entity["name"] if isinstance(entity, dict) else entity

    @cache  # noqa: B019
    def read(self, text: str) -> tuple[str, str, tuple[str, ...]]:
        """`kind/direction`, safe or unsafe, and the names in order of appearance; a rewritten text is
        called rewritten, and its kind and direction are those of its first sentence."""
        names = tuple(self.pattern.findall(text))
        safety = "unsafe" if any(self.unsafe.get(name) for name in names) else "safe"
        form = self.pattern.sub(lambda name: self.kinds[name[0]], text)
        if form in self.directions:
            return self.directions[form], safety, names
        danger = next(danger for danger in DANGERS if form.endswith(danger))
        bare = form.removesuffix(danger).rstrip()
        origin = {name for known, name in self.directions.items() if known.startswith(bare)}
        assert len(origin) == 1, text
        return f"rewritten {origin.pop()}", safety, names
