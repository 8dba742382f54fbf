"""The report on a reflected shard: the guard's verdicts, what they added, and documents to read."""

import base64
import hashlib
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.data.shards.indexed_shard import IndexedShard, bin_path
from megatron_srp.data.shards.manifest import find_manifest, manifest_path, read_manifest
from megatron_srp.data.shards.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.data.training_tokenizer import moved_tokenizer, recorded_tokenizer
from megatron_srp.errors import InputError, SrpError, UsageError
from megatron_srp.files import write_text
from megatron_srp.reports.document_texts import DocumentReader, visible
from megatron_srp.reports.pages import LINE_COLOR, VERDICT_COLORS, draw_counts, load_page, picture
from megatron_srp.reports.shard_statistics import DENSITY_STEP, ShardStatistics, measure
from megatron_srp.tokenization import TextTokenizer


@dataclass(slots=True)
class Inspection:
    """A reflected shard, open for reading.

    Attributes:
        name: of the sidecar, without `.srp`.
        sidecar, shard: with the reflections, and the tokens they belong to.
        described: `tokenizer` as in a manifest; None where no manifest names it.
        tokenizer: None where it cannot be loaded, for the reason in `no_texts`.
    """

    name: Path
    sidecar: ReflectionSidecar
    shard: IndexedShard
    settings: dict[str, Any]
    tokenizer: TextTokenizer | None = None
    no_texts: str = ""


def open_shard(prefix: str | Path, plain: str | Path | None = None, tokenizer_model: str | None = None) -> Inspection:
    """Open the shard that `prefix` names: an output prefix, or the prefix of a shard or sidecar itself.

    Args:
        plain: prefix of the plain shard, where the sidecar is for one in another folder.
        tokenizer_model: where the tokenizer is now, if not where the manifest says.

    Raises:
        UsageError: when the prefix names several shards.
        InputError: when there is no sidecar, or it does not fit the shard.
    """
    name = _shard_name(Path(str(prefix)))
    sidecar = ReflectionSidecar.load(sidecar_path(name))
    made_for = sidecar.info.get("shard", {}).get("name")
    beside = name if bin_path(name).exists() or not made_for else name.with_name(Path(made_for).name)
    shard = IndexedShard(plain or beside)
    if len(shard) != len(sidecar):
        raise InputError(
            f"{sidecar_path(name)} has {len(sidecar):,} sequences, {bin_path(shard.prefix)} has {len(shard):,}; "
            "they do not belong together"
        )
    manifest = find_manifest(name) or {}
    inspection = Inspection(name, sidecar, shard, manifest.get("settings", {}) or sidecar.info)
    described = manifest.get("tokenizer") or sidecar.info.get("training_tokenizer")
    try:
        inspection.tokenizer = _load_tokenizer(described, tokenizer_model, name.parent)
    except SrpError as error:
        inspection.no_texts = str(error)
    return inspection


def _shard_name(prefix: Path) -> Path:
    """The one shard that an output prefix names, or `prefix` itself."""
    if sidecar_path(prefix).exists() or not manifest_path(prefix).exists():
        return prefix
    manifest = read_manifest(manifest_path(prefix))
    names = [entry["name"] for kind in ("shards", "sidecars") for entry in manifest.get(kind) or []]
    found = [prefix.with_name(name) for name in names if sidecar_path(prefix.with_name(name)).exists()]
    if not found:
        raise InputError(f"{prefix}: these shards carry no reflections to inspect")
    if len(found) > 1:
        raise UsageError(f"{prefix} names {len(found)} shards; pass one of them: {', '.join(map(str, found))}")
    return found[0]


def _load_tokenizer(described: dict[str, Any] | None, model: str | None, folder: Path) -> TextTokenizer:
    if not described:
        raise InputError("no manifest names the shard's tokenizer")
    return recorded_tokenizer(described, model or moved_tokenizer(folder, Path(described["model"])))


def inspect_shard(inspection: Inspection, documents: int, seed: int) -> tuple[ShardStatistics, dict[str, Any]]:
    """The statistics of the shard, and everything the page and `--json` show.

    Args:
        documents: how many to show.
        seed: random seed of the choice.
    """
    statistics = measure(inspection.shard.lengths, inspection.sidecar, documents, seed)
    content = {"shard": str(inspection.name), "no_texts": inspection.no_texts} | statistics.to_json()
    shown: list[dict[str, Any]] = []
    if inspection.tokenizer and inspection.sidecar.materialized and inspection.sidecar.table.drops():
        inspection.no_texts = content["no_texts"] = (
            "the policy left text out of the shard; a sidecar of the plain shard can be shown"
        )
    elif inspection.tokenizer:
        tokenizer = inspection.tokenizer
        reader = DocumentReader(inspection.shard, inspection.sidecar, tokenizer.decode, tokenizer.eos_id)
        shown = [asdict(reader.read(number)) for number in statistics.sample.draw()]
        for stretch in content["longest_unsafe"]:
            read = reader.read(stretch["document"], stretch["first"])
            stretch["pieces"] = asdict(read)["pieces"][: stretch["segments"]]
    return statistics, content | {"sample": shown}


def write_shard_report(path: str | Path, inspection: Inspection, statistics: ShardStatistics, content: dict) -> Path:
    """Write one self-contained page."""
    script = files("megatron_srp.reports").joinpath("shard_report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = load_page("shard_report.html").render(
        content=content,
        name=visible(inspection.name.name),
        settings=inspection.settings,
        script=script,
        script_hash=digest,
        names={"verdicts": list(content["verdicts"]), "categories": list(content["categories"])},
        pictures=_pictures(statistics, content),
    )
    return write_text(Path(path), html)


def _pictures(statistics: ShardStatistics, content: dict[str, Any]) -> dict[str, str]:
    if not content["segments"]:
        return {}
    return {
        "verdicts": draw_counts(content["verdicts"], VERDICT_COLORS),
        "categories": draw_counts(content["categories"], {}) if content["categories"] else "",
        "density": _draw_density(statistics),
        "segments": _draw_lengths(statistics.segment_tokens, "segments"),
        "documents": _draw_lengths(statistics.document_tokens, "documents"),
    }


def _draw_density(statistics: ShardStatistics) -> str:
    shares = np.linspace(0.005, 0.995, 199)
    values = statistics.density.quantiles(shares) * DENSITY_STEP

    def draw(axes: Any) -> None:
        axes.plot(100 * shares, values, color=LINE_COLOR, linewidth=1.8)
        axes.fill_between(100 * shares, values, color=LINE_COLOR, alpha=0.12)
        axes.set_xlabel("documents (%), from the least to the most")
        axes.set_ylabel("tokens added per 1,000")
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)

    return picture(draw, 7, 2.8)


def _draw_lengths(histogram: Any, what: str) -> str:
    low, high = np.maximum(histogram.quantiles(np.array([0.0, 1.0])), 1)
    edges = np.unique(np.round(np.geomspace(low, high + 1, 48)).astype(np.int64))
    edges[-1] = high + 1

    def draw(axes: Any) -> None:
        axes.bar(edges[:-1], histogram.bins(edges), np.diff(edges), align="edge", color=LINE_COLOR, alpha=0.85)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_xlabel("tokens, without reflections")
        axes.set_ylabel(what)
        axes.grid(axis="y", alpha=0.3)

    return picture(draw, 7, 2.6)
