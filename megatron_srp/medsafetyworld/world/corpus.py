"""The pretraining corpus: JSON lines, `{"text": ...}`, and in a setting with verdicts one for each.

A text is one document and, being short, one segment with one reflection, whatever its neighbours say;
Megatron packs documents into sequences and shuffles them itself. A shard depends only on the world and
its number, so any number of processes makes the same corpus.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.annotation.store.store import AnnotationStore, Part, write_part
from megatron_srp.corpus.batch import TextBatch, text_hashes
from megatron_srp.errors import OutputError
from megatron_srp.files import file_fingerprint
from megatron_srp.medsafetyworld.world.draws import Draws
from megatron_srp.medsafetyworld.world.plan import Plan, World
from megatron_srp.medsafetyworld.world.presets import WorldSpec
from megatron_srp.medsafetyworld.world.render import Rendered, Renderer, render_questions
from megatron_srp.medsafetyworld.world.settings import TREATMENTS, LabelPolicy, Setting, flagged
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.segmentation import DEFAULT_MAX_WORDS

KEY = "text"
_LABELS = [SAFE, SafetyLabel(Verdict.UNSAFE)]


@dataclass(frozen=True, slots=True)
class WorldJob:
    """What to make.

    Attributes:
        spec: of the world; `preset` is its name, for the manifest.
        setting: which texts the corpus has.
        policy: which of them are Unsafe; used in a setting with verdicts only.
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


def write_corpus(
    job: WorldJob, plan: Plan, folder: Path, workers: int, report: Callable[[Progress], None]
) -> list[dict[str, Any]]:
    """Write all shards, and the annotation store of a setting with verdicts, into `folder`. Returns what `write_shard`
    does, in order; raises OutputError when a worker dies."""
    (folder / "corpus").mkdir()
    store = None
    if TREATMENTS[job.setting].verdicts:
        store = AnnotationStore.create(folder / "annotations", store_settings(job.policy)).folder
    write = partial(_write_one, folder=folder / "corpus", store=store, policy=job.policy)
    shards: list[dict[str, Any]] = []
    documents = size = 0
    for shard in _in_order(job, plan, write, min(workers, plan.shards)):
        shards.append(shard)
        documents, size = documents + shard["documents"], size + shard["text_bytes"]
        report(Progress(len(shards), plan.shards, documents, size))
    asked = round(TREATMENTS[job.setting].questions * documents)
    return [*shards, _write_questions(job, plan, asked, folder / "corpus", store)] if asked else shards


_renderer: Renderer | None = None  # of a worker process


def _start(spec: WorldSpec, seed: int, setting: Setting) -> None:
    global _renderer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the run
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _renderer = Renderer(Plan(World.build(spec, seed)), setting)


def _end_with_parent() -> None:
    """A pool's workers outlive a parent that is killed, and would continue writing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_one(
    shard: int, folder: Path, store: Path | None, policy: LabelPolicy, renderer: Renderer | None = None
) -> dict[str, Any]:
    renderer = renderer or _renderer
    assert renderer is not None  # `_start` ran, or the caller passes one
    return write_shard(renderer, shard, folder / f"{shard:05d}.jsonl", store, policy)


def _in_order(
    job: WorldJob, plan: Plan, write: Callable[..., dict[str, Any]], workers: int
) -> Iterator[dict[str, Any]]:
    """What `write` returns of each shard, in their order."""
    if workers <= 1:
        renderer = Renderer(plan, job.setting)
        yield from (write(shard, renderer=renderer) for shard in range(plan.shards))
        return
    # Spawned rather than forked: Arrow has already started threads.
    context, settings = multiprocessing.get_context("spawn"), (job.spec, job.seed, job.setting)
    with ProcessPoolExecutor(workers, context, _start, settings) as pool:
        try:
            yield from pool.map(write, range(plan.shards))
        except BrokenProcessPool:
            raise OutputError(
                "a worker died before its shard was written, possibly for lack of memory; pass fewer --workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def write_shard(renderer: Renderer, shard: int, path: Path, store: Path | None, policy: LabelPolicy) -> dict[str, Any]:
    """Write one shard, and its part of the annotation store, if any. Returns its entry of world.json."""
    rendered = renderer.render(shard)
    counts = np.bincount(rendered.group * 2 + rendered.unsafe, minlength=2 * len(renderer.plan.groups))
    draws = Draws(renderer.plan.world.seed, "verdicts", shard)
    return _write_texts(rendered, path, store, policy, draws) | {"counts": counts.tolist()}


def _write_questions(job: WorldJob, plan: Plan, wanted: int, folder: Path, store: Path | None) -> dict[str, Any]:
    """Write the shard of questions, of no kind and direction of texts."""
    rendered = render_questions(plan.world, wanted)
    draws = Draws(job.seed, "verdicts", "questions")
    written = _write_texts(rendered, folder / "questions.jsonl", store, job.policy, draws)
    return written | {"counts": [0] * (2 * len(plan.groups)), "questions": written["documents"]}


def _write_texts(
    rendered: Rendered, path: Path, store: Path | None, policy: LabelPolicy, draws: Draws
) -> dict[str, Any]:
    path.write_bytes(rendered.lines.data)
    flags = flagged(policy, rendered.unsafe, rendered.outcome_first, draws)
    if store is not None:
        _write_verdicts(rendered, flags, path, AnnotationStore(store))
    begins, ends = rendered.texts()
    return {
        "file": f"{path.parent.name}/{path.name}",
        "documents": len(rendered.ends),
        "text_bytes": int((ends - begins).sum()),
        "sha256": hashlib.sha256(rendered.lines).hexdigest(),
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
        last=True,
    )
    write_part(store.part_path(KEY, file_fingerprint(path), 0), part)


def store_settings(policy: LabelPolicy) -> dict[str, Any]:
    """The annotation store's settings: the world itself is the judge."""
    return {"guard": "medsafetyworld", "revision": f"1 {policy}", "max_words": DEFAULT_MAX_WORDS}
