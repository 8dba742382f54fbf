"""The annotation store: verdicts on disk, beside the corpus and without its text.

    STORE/store.json                          who judged, and with which settings
    STORE/KEY/FINGERPRINT/000000000000.parquet  one part per chunk of an input file, named by its first row
    STORE/writers/*.lock                      who is writing (`writers.py`)

Parts (`part.py`) are written whole or not at all, and are readable by anything that reads Parquet. A part
depends on the input, the guard and the settings alone, so that a store filled by many nodes, or in many
runs, is the store of one undisturbed run. (The last bits of a model's scores also depend on its arithmetic: on
another GPU, or with another OMP_NUM_THREADS on a CPU, they differ by some 1e-7.)
"""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import orjson

from megatron_srp.annotation.store.part import Part, PartSummary, read_part, read_summary, write_part
from megatron_srp.errors import InputError, OutputError, UsageError

FORMAT_VERSION = 2

__all__ = ["AnnotationStore", "Part", "PartSummary", "Span", "read_part", "read_summary", "write_part"]


@dataclass(frozen=True, slots=True)
class Span:
    """Rows [start, stop) of an input file that have no verdicts yet; to the end where `stop` is None."""

    start: int
    stop: int | None = None


class AnnotationStore:
    """A folder of verdicts by one guard with one set of settings.

    Attributes:
        settings: `guard`, `revision`, `max_words` and whatever else decides a verdict, as recorded.
    """

    HEADER: ClassVar[str] = "store.json"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            header = orjson.loads((self.folder / self.HEADER).read_bytes())
            version = header.get("version")
            self.settings: dict[str, Any] = dict(header["settings"])
        except (OSError, AttributeError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{folder}: not an annotation store (no readable {self.HEADER}); make one with `srp annotate`"
            ) from None
        if version != FORMAT_VERSION:
            raise InputError(f"{folder}: store version {version}, this release reads {FORMAT_VERSION}")

    @classmethod
    def create(cls, folder: str | Path, settings: dict[str, Any]) -> Self:
        """Open the store to write to it, making it if need be.

        Raises:
            UsageError: when it holds verdicts with other settings; the message names the difference.
            OutputError: when the folder cannot be written to.
        """
        path = Path(folder) / cls.HEADER
        settings = json.loads(json.dumps(settings))  # as it will be read back
        if not path.exists():
            cls._check_new(path.parent)
            text = json.dumps({"version": FORMAT_VERSION, "settings": settings}, indent=2) + "\n"
            temporary = path.with_name(f"{cls.HEADER}.{socket.gethostname()}-{os.getpid()}.tmp")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(text, encoding="utf-8")
                _publish(temporary, path)
            except OSError as error:
                raise OutputError(f"{folder}: {error.strerror}; choose another --store") from None
        store = cls(folder)
        for name in sorted({*settings, *store.settings}):
            if settings.get(name) != store.settings.get(name):
                raise UsageError(
                    f"{folder} was made with other settings: {name} was "
                    f"{store.settings.get(name)!r}, now {settings.get(name)!r}; give a new folder"
                )
        return store

    @classmethod
    def _check_new(cls, folder: Path) -> None:
        """A folder that has something else in it is somebody's own; other nodes may be making the same store now."""
        if folder.is_dir() and any(not path.name.startswith(cls.HEADER) for path in folder.iterdir()):
            raise UsageError(
                f"{folder} is no annotation store (no {cls.HEADER}) and not empty; give --store a new folder, or the "
                "one of a store"
            )

    def part_path(self, key: str, fingerprint: str, first_row: int) -> Path:
        return self.folder / key / fingerprint / f"{first_row:012d}.parquet"

    def parts(self, key: str, fingerprint: str) -> list[tuple[int, Path]]:
        """First row and path of each part of an input file, in order."""
        return sorted((int(path.stem), path) for path in (self.folder / key / fingerprint).glob("*.parquet"))

    def summaries(self, key: str, fingerprint: str) -> list[PartSummary]:
        """What the footers of an input file's parts say, in order."""
        return [read_summary(path) for _, path in self.parts(key, fingerprint)]

    def missing(self, key: str, fingerprint: str) -> list[Span]:
        """The rows of an input file that no part speaks of: gaps between parts, and what lies behind them."""
        spans, end, last = [], 0, False
        for part in self.summaries(key, fingerprint):
            if part.first > end:
                spans.append(Span(end, part.first))
            end, last = max(end, part.end), last or part.last
        return spans if last else [*spans, Span(end)]


def _publish(temporary: Path, path: Path) -> None:
    """Give a new file its name unless another writer was faster: nodes may start at the same moment."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links; both writers have the same text or one is refused
        temporary.replace(path)
    temporary.unlink(missing_ok=True)
