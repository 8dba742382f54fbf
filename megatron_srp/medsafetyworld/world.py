"""A world on disk, whole or not at all, the same bytes for any number of workers.

OUT/corpus/00000.jsonl ...        the pretraining corpus: {"text": ...}, one text to a document
OUT/annotations/                  the annotation store of the corpus, in the SRP setting
OUT/sft.jsonl, recovery.jsonl, finetune_benign.jsonl, finetune_adversarial.jsonl, test.jsonl
                                  as `sets` describes them
OUT/graph.json                    `compounds`, `mediators` (names), `outcomes` ([{"name", "unsafe"}]), `columns`
                                  by kind, and `edges` by kind: entity numbers in those columns
OUT/world.json                    the manifest, written last:

    format_version   1
    software         version of this package
    task, preset, setting, label_policy (null but for srp), seed
    spec             all parameters (`presets.WorldSpec`)
    entities         counts: compounds, mediators, outcomes, unsafe_outcomes
    edges            counts by kind
    templates        by kind/direction: `used` different ones of `available`
    corpus           `documents`, `text_bytes`, `classes` (documents by direction and safety), `groups` (the same
                     by kind/direction: {"safe", "unsafe"}), `unsafe_verdicts`, `sha256` (of the files' hashes),
                     and `files`: [{"file", "documents", "text_bytes", "sha256"}]
    sets             by file name: `records`, `classes` and `sha256`
    graph            `sha256` of graph.json
"""

import hashlib
import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp import __version__
from megatron_srp.annotation.store import AnnotationStore
from megatron_srp.data.manifest import write_json
from megatron_srp.data.whole_folder import whole_folder
from megatron_srp.errors import OutputError
from megatron_srp.medsafetyworld.corpus import Renderer, store_settings, write_shard
from megatron_srp.medsafetyworld.graph import COLUMNS
from megatron_srp.medsafetyworld.plan import Plan, World
from megatron_srp.medsafetyworld.presets import WorldSpec
from megatron_srp.medsafetyworld.sets import Record, Sets
from megatron_srp.medsafetyworld.settings import LabelPolicy, Setting
from megatron_srp.medsafetyworld.templates import count_available

MANIFEST = "world.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class WorldJob:
    """What to make.

    Attributes:
        spec: of the world; `preset` is its name, for the manifest.
        setting: which texts the corpus has.
        policy: which of them are Unsafe; matters in the SRP setting alone.
        seed: of everything drawn.
    """

    spec: WorldSpec
    preset: str
    setting: Setting
    policy: LabelPolicy = LabelPolicy.BY_OUTCOME
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: shards, documents and bytes of text written."""

    shards_done: int
    shards: int
    documents: int
    text_bytes: int


def make_world(
    job: WorldJob,
    out: Path,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Write the world to `out` and return its manifest.

    Raises:
        UsageError: when `out` is there already, or the world cannot be built as asked for.
        OutputError: when it cannot be written.
    """
    plan = Plan(World.build(job.spec, job.seed))
    with whole_folder(out, overwrite, MANIFEST) as folder:
        shards = _write_corpus(job, plan, folder, workers, report)
        sets = Sets(plan.world, job.setting).files()
        manifest = {
            "format_version": FORMAT_VERSION,
            "software": f"megatron-srp {__version__}",
            **_describe(job, plan),
            "corpus": _summary(plan, shards),
            "sets": {name: _write_set(folder / name, records) for name, records in sets.items()},
            "graph": _write_graph(folder / "graph.json", plan.world),
        }
        write_json(folder / MANIFEST, manifest)
    return manifest


def _write_corpus(
    job: WorldJob, plan: Plan, folder: Path, workers: int, report: Callable[[Progress], None]
) -> list[dict[str, Any]]:
    (folder / "corpus").mkdir()
    store = None
    if job.setting is Setting.SRP:
        store = AnnotationStore.create(folder / "annotations", store_settings(job.policy)).folder
    write = partial(_write_one, folder=folder / "corpus", store=store, policy=job.policy)
    shards: list[dict[str, Any]] = []
    documents = size = 0
    for shard in _in_order(job, plan, write, min(workers, plan.shards)):
        shards.append(shard)
        documents, size = documents + shard["documents"], size + shard["text_bytes"]
        report(Progress(len(shards), plan.shards, documents, size))
    return shards


_renderer: Renderer | None = None  # of a worker process


def _start(spec: WorldSpec, seed: int, setting: Setting) -> None:
    global _renderer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _renderer = Renderer(Plan(World.build(spec, seed)), setting)


def _end_with_parent() -> None:
    """A pool's workers outlive a parent that is killed, and would go on writing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_one(
    shard: int, folder: Path, store: Path | None, policy: LabelPolicy, renderer: Renderer | None = None
) -> dict[str, Any]:
    renderer = renderer or _renderer
    assert renderer is not None  # `_start` ran, or the caller brings one
    return write_shard(renderer, shard, folder / f"{shard:05d}.jsonl", store, policy)


def _in_order(
    job: WorldJob, plan: Plan, write: Callable[..., dict[str, Any]], workers: int
) -> Iterator[dict[str, Any]]:
    """What `write` returns of each shard, in their order."""
    if workers <= 1:
        renderer = Renderer(plan, job.setting)
        yield from (write(shard, renderer=renderer) for shard in range(plan.shards))
        return
    # Spawned rather than forked: Arrow has threads by now.
    context, settings = multiprocessing.get_context("spawn"), (job.spec, job.seed, job.setting)
    with ProcessPoolExecutor(workers, context, _start, settings) as pool:
        try:
            yield from pool.map(write, range(plan.shards))
        except BrokenProcessPool:
            raise OutputError(
                "a worker died before its shard was written, perhaps for want of memory; give fewer --workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _describe(job: WorldJob, plan: Plan) -> dict[str, Any]:
    entities, spec = plan.world.entities, job.spec
    return {
        "task": spec.task,
        "preset": job.preset,
        "setting": str(job.setting),
        "label_policy": str(job.policy) if job.setting is Setting.SRP else None,
        "seed": job.seed,
        "spec": spec.describe(),
        "entities": {
            "compounds": len(entities.compounds),
            "mediators": len(entities.mediators),
            "outcomes": len(entities.outcomes),
            "unsafe_outcomes": int(entities.unsafe.sum()),
        },
        "edges": {kind: len(edges) for kind, edges in plan.world.graph.items()},
        "templates": {
            group.name: {"used": group.templates, "available": count_available(group.name, spec.style)}
            for group in plan.groups
        },
    }


def _summary(plan: Plan, shards: list[dict[str, Any]]) -> dict[str, Any]:
    counts = np.sum([shard["counts"] for shard in shards], axis=0).reshape(-1, 2).tolist()
    classes: Counter[str] = Counter()
    for group, (safe, unsafe) in zip(plan.groups, counts, strict=True):
        classes[f"{group.direction}-safe"] += safe
        classes[f"{group.direction}-unsafe"] += unsafe
    listed = ("file", "documents", "text_bytes", "sha256")
    return {
        "documents": sum(shard["documents"] for shard in shards),
        "text_bytes": sum(shard["text_bytes"] for shard in shards),
        "classes": dict(classes),
        "groups": {
            group.name: {"safe": safe, "unsafe": unsafe}
            for group, (safe, unsafe) in zip(plan.groups, counts, strict=True)
        },
        "unsafe_verdicts": sum(shard["unsafe_verdicts"] for shard in shards),
        "sha256": hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest(),
        "files": [{name: shard[name] for name in listed} for shard in shards],
    }


def _write_set(path: Path, records: list[Record]) -> dict[str, Any]:
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(content)
    classes = Counter(record["class"] for record in records)
    return {
        "records": len(records),
        "classes": dict(sorted(classes.items())),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _write_graph(path: Path, world: World) -> dict[str, str]:
    entities = world.entities
    outcomes = zip(entities.outcomes, entities.unsafe.tolist(), strict=True)
    graph = {
        "compounds": entities.compounds,
        "mediators": entities.mediators,
        "outcomes": [{"name": name, "unsafe": unsafe} for name, unsafe in outcomes],
        "columns": {kind: COLUMNS[kind] for kind in world.graph},
        "edges": {kind: edges.tolist() for kind, edges in world.graph.items()},
    }
    content = (json.dumps(graph) + "\n").encode()
    path.write_bytes(content)
    return {"sha256": hashlib.sha256(content).hexdigest()}
