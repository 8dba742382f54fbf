"""A world on disk, whole or not at all, the same bytes for any number of workers.

OUT/corpus/00000.jsonl ...        the pretraining corpus: {"text": ...}, one text per document
OUT/annotations/                  the annotation store of the corpus, in a setting with verdicts
OUT/sft.jsonl, recovery.jsonl, recovery_untested.jsonl, finetune_benign.jsonl, finetune_adversarial.jsonl, test.jsonl
                                  as `sets` describes them
OUT/graph.json                    `compounds`, `mediators` (names), `outcomes` ([{"name", "unsafe"}]), `columns`
                                  by kind, and `edges` by kind: entity numbers in those columns
OUT/world.json                    the manifest, written last:

    format_version   1
    software         version of this package
    task, preset, setting, label_policy (null without verdicts), seed
    spec             all parameters (`presets.WorldSpec`)
    entities         counts: compounds, mediators, outcomes, unsafe_outcomes
    edges            counts by kind
    templates        by kind/direction: `used` different ones of `available`
    corpus           `documents`, `text_bytes`, `classes` (documents by direction and safety), `groups` (the same
                     by kind/direction: {"safe", "unsafe"}), `questions` (in a setting that has some, as documents
                     that none of those count), `unsafe_verdicts`, `sha256` (of the files' hashes),
                     and `files`: [{"file", "documents", "text_bytes", "sha256"}]
    sets             by file name: `records`, `classes` and `sha256`
    graph            `sha256` of graph.json
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp import __version__
from megatron_srp.files import write_json
from megatron_srp.medsafetyworld.world.corpus import Progress, WorldJob, write_corpus
from megatron_srp.medsafetyworld.world.graph import COLUMNS
from megatron_srp.medsafetyworld.world.plan import Plan, World
from megatron_srp.medsafetyworld.world.sets import Record, Sets
from megatron_srp.medsafetyworld.world.settings import TREATMENTS
from megatron_srp.medsafetyworld.world.templates import count_available
from megatron_srp.whole_folder import whole_folder

MANIFEST = "world.json"
FORMAT_VERSION = 1


def make_world(
    job: WorldJob,
    out: Path,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Write the world to `out` and return its manifest.

    Raises:
        UsageError: when `out` exists already, or the world cannot be built as asked for.
        OutputError: when it cannot be written.
    """
    plan = Plan(World.build(job.spec, job.seed))
    with whole_folder(out, overwrite, MANIFEST) as folder:
        shards = write_corpus(job, plan, folder, workers, report)
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


def _describe(job: WorldJob, plan: Plan) -> dict[str, Any]:
    entities, spec = plan.world.entities, job.spec
    return {
        "task": spec.task,
        "preset": job.preset,
        "setting": str(job.setting),
        "label_policy": str(job.policy) if TREATMENTS[job.setting].verdicts else None,
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
            group.name: {
                "used": group.templates,
                "available": count_available(group.name, spec.style, spec.cause_first),
            }
            for group in plan.groups
        },
    }


def _summary(plan: Plan, shards: list[dict[str, Any]]) -> dict[str, Any]:
    counts = np.sum([shard["counts"] for shard in shards], axis=0).reshape(-1, 2).tolist()
    questions = sum(shard.get("questions", 0) for shard in shards)
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
        **({"questions": questions} if questions else {}),
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
