"""The pretraining corpus, a shard at a time: JSON lines, `{"text": ...}`, one text to a document.

A text is one document and, being short, one segment with one reflection, whatever its neighbours say;
Megatron packs documents into sequences and shuffles them itself. All work on a shard is on flat arrays:
templates and names are pieces, a text is a row of piece numbers, and Arrow's `take` writes the bytes of all
rows one behind the other.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from megatron_srp.annotation.store import AnnotationStore, Part, write_part
from megatron_srp.corpus.batch import TextBatch, text_hashes
from megatron_srp.corpus.readers import file_fingerprint
from megatron_srp.medsafetyworld.graph import COLUMNS
from megatron_srp.medsafetyworld.plan import Plan, Texts
from megatron_srp.medsafetyworld.settings import Direction, LabelPolicy, Setting, flagged, kept
from megatron_srp.medsafetyworld.templates import compile_templates, pick_templates
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.segmentation import DEFAULT_MAX_WORDS

KEY = "text"
_BEFORE, _AFTER = '{"text": "', '"}\n'  # what is in between is ASCII without quotes: nothing to escape
_LABELS = [SAFE, SafetyLabel(Verdict.UNSAFE)]


@dataclass(frozen=True, slots=True)
class Rendered:
    """N documents of one shard.

    Attributes:
        lines: uint8[B], the JSON lines.
        ends: int64[N], where each line ends.
        group: int64[N] numbers in the plan's groups.
        unsafe: bool[N], with an unsafe outcome.
        outcome_first: bool[N].
    """

    lines: np.ndarray
    ends: np.ndarray
    group: np.ndarray
    unsafe: np.ndarray
    outcome_first: np.ndarray

    def texts(self) -> tuple[np.ndarray, np.ndarray]:
        """int64[N] each: where the texts begin and end in `lines`."""
        begins = np.concatenate([[0], self.ends[:-1]]) + len(_BEFORE)
        return begins, self.ends - len(_AFTER)


class Renderer:
    """Renders the shards of one plan in one setting; all tables are made once."""

    def __init__(self, plan: Plan, setting: Setting) -> None:
        self.plan, self.setting = plan, setting
        world, entities = plan.world, plan.world.entities
        picked = [pick_templates(g.name, world.spec.style, g.templates) for g in plan.groups]
        kinds = [group.kind for group, templates in zip(plan.groups, picked, strict=True) for _ in templates]
        templates = [template for group in picked for template in group]
        texts = [(kind, t.text) for kind, t in zip(kinds, templates, strict=True)]
        texts += [(kind, t.rewritten) for kind, t in zip(kinds, templates, strict=True)]
        compiled = compile_templates([(kind, _BEFORE + text + _AFTER) for kind, text in texts])
        names = [*entities.compounds, *entities.mediators, *entities.outcomes]
        self._pieces = pa.array(compiled.literals + names, pa.large_string())
        self._rows, self._rewritten = np.split(compiled.rows, 2)
        self._outcome_first = np.array([template.outcome_first for template in templates])
        self._first_row = np.cumsum([0, *map(len, picked)])
        self._tables = {kind: self._name_pieces(kind, len(compiled.literals)) for kind in world.graph}
        self._unsafe = {kind: world.is_unsafe(kind) for kind in world.graph}
        self._harmful = np.array([group.direction is Direction.REVERSE for group in plan.groups])

    def _name_pieces(self, kind: str, first: int) -> np.ndarray:
        """int32[edges, columns]: the numbers of the names' pieces."""
        spec = self.plan.world.spec
        starts = {"A": first, "B": first + spec.compounds, "C": first + spec.compounds + spec.mediators}
        return (self.plan.world.graph[kind] + [starts[column[0]] for column in COLUMNS[kind]]).astype(np.int32)

    def render(self, shard: int) -> Rendered:
        texts = self.plan.texts(shard)
        unsafe = np.zeros(len(texts.group), bool)
        for number, group in enumerate(self.plan.groups):
            own = texts.group == number
            unsafe[own] = self._unsafe[group.kind][texts.edge[own]]
        keep = kept(self.setting, unsafe & self._harmful[texts.group], unsafe)
        texts, unsafe = Texts(texts.group[keep], texts.edge[keep], texts.template[keep]), unsafe[keep]
        row = self._first_row[texts.group] + texts.template
        filled = self._pieces.take(pa.array(self._piece_numbers(texts, row, unsafe).ravel()))
        _, offsets, data = filled.buffers()
        ends = np.frombuffer(offsets, np.int64)[self._rows.shape[1] : len(filled) + 1 : self._rows.shape[1]]
        lines = (
            np.frombuffer(data, np.uint8)[: ends[-1] if len(ends) else 0] if data is not None else np.empty(0, np.uint8)
        )
        return Rendered(lines, ends, texts.group, unsafe, self._outcome_first[row])

    def _piece_numbers(self, texts: Texts, row: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
        """int32[N, width]: the pieces of N texts, slots filled."""
        pieces = self._rows[row]
        if self.setting is Setting.REWRITE:
            harmful = unsafe & self._harmful[texts.group]
            pieces[harmful] = self._rewritten[row[harmful]]
        for kind, table in self._tables.items():
            groups = [number for number, group in enumerate(self.plan.groups) if group.kind == kind]
            own = np.flatnonzero(np.isin(texts.group, groups))
            mine, edges = pieces[own], texts.edge[own]
            at, slot = np.nonzero(mine < 0)
            mine[at, slot] = table[edges[at], -1 - mine[at, slot]]
            pieces[own] = mine
        return pieces


def write_shard(renderer: Renderer, shard: int, path: Path, store: Path | None, policy: LabelPolicy) -> dict[str, Any]:
    """Write one shard, and its part of the annotation store where there is one. Returns what world.json says of it."""
    rendered = renderer.render(shard)
    path.write_bytes(rendered.lines.data)
    flags = flagged(policy, rendered.unsafe, rendered.outcome_first)
    if store is not None:
        _write_verdicts(rendered, flags, path, AnnotationStore(store))
    begins, ends = rendered.texts()
    counts = np.bincount(rendered.group * 2 + rendered.unsafe, minlength=2 * len(renderer.plan.groups))
    return {
        "file": f"{path.parent.name}/{path.name}",
        "documents": len(rendered.ends),
        "text_bytes": int((ends - begins).sum()),
        "sha256": hashlib.sha256(rendered.lines).hexdigest(),
        "counts": counts.tolist(),
        "unsafe_verdicts": int(flags.sum()) if store is not None else 0,
    }


def _write_verdicts(rendered: Rendered, flags: np.ndarray, path: Path, store: AnnotationStore) -> None:
    """A verdict for the one segment of every document."""
    n = len(rendered.ends)
    begins, ends = rendered.texts()
    bounds = np.concatenate([[0], np.column_stack([begins, ends]).ravel(), rendered.ends[-1:]])
    hashes = text_hashes(TextBatch(rendered.lines, bounds))[1::2]  # of the texts, not of what is between them
    part = Part(
        rows=np.arange(n),
        hashes=hashes,
        offsets=np.arange(n + 1),
        ends=(ends - begins).astype(np.int32),  # ASCII: bytes are characters
        codes=flags.astype(np.int64),
        labels=_LABELS,
        scores=np.full(n, np.nan, np.float32),
        end=n,
    )
    write_part(store.part_path(KEY, file_fingerprint(path), 0), part)


def store_settings(policy: LabelPolicy) -> dict[str, Any]:
    """The annotation store's settings: who judged is the world itself."""
    return {"guard": "medsafetyworld", "revision": f"1 {policy}", "max_words": DEFAULT_MAX_WORDS}
