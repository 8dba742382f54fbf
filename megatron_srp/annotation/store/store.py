"""The annotation store: verdicts on disk, separate from the corpus and without its text.

    STORE/store.json                          the guard, its settings, and changes by hand (`edits`)
    STORE/KEY/FINGERPRINT/000000000000.parquet  one part per chunk of an input file, named by its first row
    STORE/writers/*.lock                      who is writing (`writers.py`)

Parts (`part.py`) are written atomically, and any Parquet reader can read them. A part depends only on the
input, the guard and the settings, so a store filled by many nodes, or in many runs, equals the store of one
uninterrupted run. (The last bits of a model's scores also depend on its arithmetic: on
another GPU, or with another OMP_NUM_THREADS on a CPU, they differ by some 1e-7.)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import orjson

from megatron_srp.annotation.store.part import Part, PartSummary, read_part, read_summary, write_part
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.files import digest, write_json, write_text_once
from megatron_srp.remote.objects import Mirror

FORMAT_VERSION = 2
THRESHOLD = "settles_below"  # the one setting that a store may change: a cascade's threshold may be lowered

__all__ = ["THRESHOLD", "AnnotationStore", "Part", "PartSummary", "Span", "read_part", "read_summary", "write_part"]


def store_mirror(url: str, work: str | Path) -> Mirror:
    """A store on S3 and its copy in the folder `work`: without locks, and unfinished replies to requests for hints."""
    return Mirror(url, work, AnnotationStore.HEADER, lambda name: name.endswith((".parquet", ".json")))


@dataclass(frozen=True, slots=True)
class Span:
    """Rows [start, stop) of an input file that have no verdicts yet; to the end where `stop` is None."""

    start: int
    stop: int | None = None

    def within(self, start: int, stop: int | None) -> "Span | None":
        """Those of the rows that are in [start, stop); None if none is."""
        start = max(self.start, start)
        ends = [end for end in (self.stop, stop) if end is not None]
        cut = Span(start, min(ends) if ends else None)
        return cut if cut.stop is None or cut.start < cut.stop else None


def first_row(path: Path) -> int:
    """The first row of a part, from the name of its file, or of the temporary file that would become it."""
    return int(path.name.lstrip(".").partition(".")[0])


class AnnotationStore:
    """A folder of verdicts by one guard with one set of settings.

        >>> from megatron_srp import AnnotationStore
        >>> store = AnnotationStore("verdicts")
        >>> store.settings["guard"], store.settings["max_words"]
        ('heuristic', 100)

    Attributes:
        settings: `guard`, `revision`, `max_words` and whatever else determines a verdict, as recorded.
        edits: verdicts that were changed by hand, in order: `when`, `who`, which segment, `before`, `after`, `reason`.
    """

    HEADER: ClassVar[str] = "store.json"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            header = orjson.loads((self.folder / self.HEADER).read_bytes())
            version = header.get("version")
            self.settings: dict[str, Any] = dict(header["settings"])
            self.edits: list[dict[str, Any]] = [dict(edit) for edit in header.get("edits", [])]
        except (OSError, AttributeError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{folder}: not an annotation store (no readable {self.HEADER}); make one with `srp annotate`"
            ) from None
        if version != FORMAT_VERSION:
            raise InputError(f"{folder}: store version {version}, this release reads {FORMAT_VERSION}")

    @classmethod
    def create(cls, folder: str | Path, settings: dict[str, Any]) -> Self:
        """Open the store for writing, creating it if necessary.

        Raises:
            UsageError: when it contains verdicts with other settings; the message names the difference.
            OutputError: when the folder cannot be written to.
        """
        path = Path(folder) / cls.HEADER
        settings = json.loads(json.dumps(settings))  # as it will be read back
        if not path.exists():
            cls._check_new(path.parent)
            text = json.dumps({"version": FORMAT_VERSION, "settings": settings}, indent=2) + "\n"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text_once(path, text)
            except OSError as error:
                raise OutputError(f"{folder}: {error.strerror}; choose another --store") from None
        store = cls(folder)
        store._lower_threshold(settings)
        for name in sorted({*settings, *store.settings}):
            if settings.get(name) != store.settings.get(name):
                raise UsageError(
                    f"{folder} was made with other settings: {name} was "
                    f"{store.settings.get(name)!r}, now {settings.get(name)!r}; pass a new folder"
                )
        return store

    def _lower_threshold(self, settings: dict[str, Any]) -> None:
        """Record a lower threshold of the same cascade: the annotator then asks its back about what is now above it."""
        before, now = self.settings.get(THRESHOLD), settings.get(THRESHOLD)
        others_differ = {**self.settings, THRESHOLD: now} != settings
        if before is None or now is None or others_differ or now == before:
            return
        if now > before:
            raise UsageError(
                f"{self.folder} was judged with the threshold {before:.6g} between front and back, and now it is "
                f"{now:.6g}; it can only be lowered: pass a new folder"
            )
        self._write(settings, self.edits)
        self.settings = settings

    @classmethod
    def _check_new(cls, folder: Path) -> None:
        """A folder with other files may be a mistake, so refuse it; other nodes may be creating the same store now."""
        others = folder.is_dir() and any(not path.name.startswith(cls.HEADER) for path in folder.iterdir())
        if others and not (folder / cls.HEADER).exists():  # a node that has created it meanwhile did so first
            raise UsageError(
                f"{folder} is not an annotation store (no {cls.HEADER}) and not empty; pass --store a new folder, or "
                "that of a store"
            )

    def describe(self) -> dict[str, Any]:
        """For the manifests of outputs made with its verdicts: the settings, and that there are edits."""
        if not self.edits:
            return self.settings
        last = self.edits[-1]
        found = {"count": len(self.edits), "last": last["when"], "by": last["who"], "digest": digest(self.edits)}
        return self.settings | {"edits": found}

    def record(self, edit: dict[str, Any]) -> None:
        """Add to `edits`, durably. The caller holds a `WriterLock`.

        Raises:
            OutputError: when the store cannot be written to.
        """
        self._write(self.settings, [*self.edits, edit])
        self.edits.append(edit)

    def _write(self, settings: dict[str, Any], edits: list[dict[str, Any]]) -> None:
        content: dict[str, Any] = {"version": FORMAT_VERSION, "settings": settings}
        try:
            write_json(self.folder / self.HEADER, content | ({"edits": edits} if edits else {}))
        except OSError as error:
            raise OutputError(f"{error.filename or self.folder}: {error.strerror}; nothing was changed") from None

    def inputs(self) -> list[tuple[str, str]]:
        """Key and fingerprint of every input file that has verdicts."""
        parts = self.folder.glob("*/*/*.parquet")
        return sorted({(path.parent.parent.name, path.parent.name) for path in parts})

    def part_path(self, key: str, fingerprint: str, first_row: int) -> Path:
        return self.folder / key / fingerprint / f"{first_row:012d}.parquet"

    def parts(self, key: str, fingerprint: str) -> list[tuple[int, Path]]:
        """First row and path of each part of an input file, in order."""
        return sorted((int(path.stem), path) for path in (self.folder / key / fingerprint).glob("*.parquet"))

    def summaries(self, key: str, fingerprint: str) -> list[PartSummary]:
        """The footers of an input file's parts, in order."""
        return [read_summary(path) for _, path in self.parts(key, fingerprint)]

    def missing(self, key: str, fingerprint: str) -> list[Span]:
        """The rows of an input file that no part covers: gaps between parts, and what comes after them."""
        spans, end, last = [], 0, False
        for part in self.summaries(key, fingerprint):
            if part.first > end:
                spans.append(Span(end, part.first))
            end, last = max(end, part.end), last or part.last
        return spans if last else [*spans, Span(end)]
