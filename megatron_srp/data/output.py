"""The files of one output prefix: a work folder with a lock and a journal, then everything at once.

While a run is under way all it has written lies in PREFIX.srp-work/. The journal there names the
settings and how far the run came; it is replaced after the data it speaks of is on disk. At the end
files are renamed to their final names, the manifest last.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_srp.data.manifest import manifest_path, write_json
from megatron_srp.errors import OutputError, UsageError

WORK_SUFFIX = ".srp-work"


class Output:
    """Opens `prefix` for writing, or for going on with a run that was stopped.

    Args:
        prefix: of all files written.
        settings: everything that decides the result; a resumed run must have the same.
        finals: names of the files the run will leave beside the manifest.
        overwrite: begin anew and replace what is there.

    Attributes:
        journal: what was recorded last.
        finished: the manifest, once everything has its final name; a run that was killed while it
            finished is completed at once.

    Raises:
        UsageError: when the output is finished already, in use by another run, or half-done with other
            settings.
        OutputError: when the folder cannot be written to.
    """

    def __init__(self, prefix: Path, settings: dict[str, Any], finals: list[Path], overwrite: bool = False) -> None:
        self.prefix, self.settings, self.finals = prefix, settings, finals
        self.folder = Path(f"{prefix}{WORK_SUFFIX}")
        self.journal: dict[str, Any] = {}
        self.finished: dict[str, Any] | None = None
        try:
            prefix.parent.mkdir(parents=True, exist_ok=True)
            self._refuse_existing(overwrite)
            self.folder.mkdir(exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise OutputError(f"{error.filename or prefix}: {error.strerror}; choose another --output-prefix") from None
        self._resume(overwrite)

    def _refuse_existing(self, overwrite: bool) -> None:
        there = [path for path in [manifest_path(self.prefix), *self.finals] if path.exists()]
        if there and not overwrite and not self._journal_path.exists():
            if manifest_path(self.prefix).exists():  # what a run left that was killed as it cleaned up
                shutil.rmtree(self.folder, ignore_errors=True)
            raise UsageError(f"{there[0]} exists already; pass --overwrite to replace it, or another --output-prefix")

    @property
    def _journal_path(self) -> Path:
        return self.folder / "journal.json"

    def _take_lock(self) -> int:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"another run is writing {self.prefix}; wait for it, or use another --output-prefix"
            ) from None
        return descriptor

    def _resume(self, overwrite: bool) -> None:
        if self._journal_path.exists() and not overwrite:
            self.journal = json.loads(self._journal_path.read_text())
            _refuse_other_settings(self.folder, self.journal["settings"], self.settings)
            if "finishing" in self.journal:
                self._complete()
            return
        for path in self.folder.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.commit({})

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns a failed write inside it into an error that says how to go on."""
        try:
            yield
        except OSError as error:
            where = error.filename or self.folder
            raise OutputError(
                f"{where}: {error.strerror}; nothing committed is lost: remove the cause, then "
                "give the same command again"
            ) from None

    def commit(self, state: dict[str, Any]) -> None:
        """Record how far the run came. Everything that `state` speaks of must be on disk."""
        self.journal = {"settings": self.settings, "state": state}
        write_json(self._journal_path, self.journal)

    def finish(self, moves: dict[Path, Path], manifest: dict[str, Any]) -> None:
        """Give work files their final names (both relative to their folders), then write the manifest.

        The intention is recorded first: a run killed from here on is completed by the next.
        """
        names = {str(source): str(target) for source, target in moves.items()}
        self.journal = {
            "settings": self.settings,
            "state": {},
            "finishing": {"moves": names, "manifest": manifest},
        }
        write_json(self._journal_path, self.journal)
        self._complete()

    def _complete(self) -> None:
        """Do what `finish` recorded, from wherever it stopped: what has moved already is left alone."""
        self.finished = self.journal["finishing"]["manifest"]
        manifest_path(self.prefix).unlink(missing_ok=True)
        for source, name in self.journal["finishing"]["moves"].items():
            target = self.prefix.parent / name
            if (self.folder / source).exists():
                if target.is_dir():
                    shutil.rmtree(target)
                (self.folder / source).replace(target)
        _sync_folder(self.prefix.parent)
        write_json(manifest_path(self.prefix), self.finished)
        _sync_folder(self.prefix.parent)
        self._journal_path.unlink()
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Let go of the lock; the work folder stays for the next run."""
        os.close(self._lock)


def _refuse_other_settings(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            raise UsageError(
                f"{folder} holds a half-done run with other settings: {name} was {_short(old.get(name))}, "
                f"now {_short(new.get(name))}; use the old settings, or pass --overwrite to begin anew"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
