"""The files of one output prefix: first in a work folder with a lock and a journal, then all published at once.

While a run is in progress, everything it writes is in PREFIX.srp-work/. The journal there records the
settings and the run's progress; it is replaced after the data it describes is on disk. At the end
every file is flushed to disk, files are renamed to their final names, and the manifest, which
lists them with their checksums, is written last.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from megatron_srp.data.shards.journal import first_change, read_journal, refuse_other_settings, write_journal
from megatron_srp.data.shards.lock import take_lock
from megatron_srp.data.shards.manifest import manifest_path, read_manifest, token_software
from megatron_srp.data.shards.prefix import is_of
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.files import make_folder, seal, sync, write_json

WORK_SUFFIX = ".srp-work"


class Output:
    """Opens `prefix` for writing, or for resuming a stopped run.

    Args:
        prefix: of all files written.
        settings: everything that determines the result; a resumed run must have the same. They include
            the versions of the software that determines tokens: a shard made by two versions could
            not be reproduced, so after an upgrade a half-done output is refused, not mixed.
        finals: names of the files that the run may write next to the manifest.
        overwrite: start over and replace what is there.

    Attributes:
        journal: the last record.
        finished: the manifest, once everything has its final name; a run that was killed while
            finishing is completed at once.

    Raises:
        UsageError: when the output is finished already, in use by another run, or half-done with other
            settings.
        InputError: when the journal or a file it lists is damaged.
        OutputError: when the folder cannot be written to.
    """

    def __init__(self, prefix: Path, settings: dict[str, Any], finals: list[Path], overwrite: bool = False) -> None:
        self.prefix, self.finals = prefix, finals
        self.settings = settings | {"software": token_software()}
        self.folder = Path(f"{prefix}{WORK_SUFFIX}")
        self.journal: dict[str, Any] = {}
        self._replaces: list[str] = []
        self.finished: dict[str, Any] | None = None
        try:
            make_folder(prefix.parent)
            self._lock: int | None = take_lock(prefix, self.folder)
        except OSError as error:
            raise OutputError(f"{error.filename or prefix}: {error.strerror}; choose another --output-prefix") from None
        try:
            with self.writing():
                self._refuse_existing(overwrite)
                self._resume(overwrite)
        except BaseException:
            self.close()
            raise

    @property
    def _journal_path(self) -> Path:
        return self.folder / "journal.json"

    @property
    def started(self) -> float:
        """When the first run began, in seconds since the epoch by the clock of the file system."""
        return (self.folder / "lock").stat().st_mtime

    def _refuse_existing(self, overwrite: bool) -> None:
        there = [path for path in [manifest_path(self.prefix), *self.finals] if path.exists()]
        if there and not overwrite and not self._journal_path.exists():
            self._remove_folder()  # empty, or left by a run that was killed while cleaning up
            raise UsageError(
                f"{there[0]} exists already{self._since()}; pass --overwrite to replace it, or another --output-prefix"
            )

    def _since(self) -> str:
        """What has changed since the existing output was made; "" where nothing has, or it is unknown."""
        with suppress(InputError):
            made = read_manifest(manifest_path(self.prefix)).get("settings") or {}
            both = made.keys() & self.settings.keys()  # a merged or stripped output has settings of another kind
            now = json.loads(json.dumps({name: self.settings[name] for name in both}))
            change = first_change({name: made[name] for name in both}, now)
            return f" ({change})" if change else ""
        return ""

    def _resume(self, overwrite: bool) -> None:
        if self._journal_path.exists() and not overwrite:
            self.journal = read_journal(self._journal_path)
            if not self._nothing_done():  # a first try that failed on a misspelled key, say, needs no --overwrite
                refuse_other_settings(self.folder, self.journal["settings"], self.settings)
                self._replaces = self.journal["replaces"]
                if "finishing" in self.journal:
                    self._complete()
                return
        self._replaces = self._earlier_files()
        self.commit({})  # before the folder is emptied: the old journal may be the only record of files to replace
        self._empty_folder({"lock", "journal.json"})
        (self.folder / "lock").touch()
        sync(self.prefix.parent)

    def _nothing_done(self) -> bool:
        """Whether the earlier run committed nothing, and was not about to replace anything."""
        replaces = any((self.prefix.parent / name).exists() for name in self.journal["replaces"])
        return not (self.journal["state"] or replaces or "finishing" in self.journal)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns a failed write in the block into an error that says how to continue."""
        try:
            yield
        except OSError as error:
            where = error.filename or self.folder
            raise OutputError(
                f"{where}: {error.strerror}; nothing committed is lost: remove the cause, then rerun the same command"
            ) from None

    def commit(self, state: dict[str, Any]) -> None:
        """Record the run's progress. Everything that `state` describes must be on disk."""
        self.journal = {"settings": self.settings, "replaces": self._replaces, "state": state}
        write_journal(self._journal_path, self.journal)

    def finish(self, moves: dict[Path, Path], manifest: dict[str, Any]) -> dict[str, Any]:
        """Give work files and folders their final names (both relative to their folders), then write the
        manifest, with `files` added: each file's size and checksum. Returns it.

        The intention is recorded first: a run killed from here on is completed by the next.
        """
        files: dict[str, Any] = {}
        for source, target in moves.items():
            files |= seal(self.folder / source, str(target))
        sync(self.folder)
        self.journal = {
            "settings": self.settings,
            "replaces": self._replaces,
            "state": {},
            "finishing": {
                "moves": {str(source): str(target) for source, target in moves.items()},
                "manifest": manifest | {"files": files},
            },
        }
        write_journal(self._journal_path, self.journal)
        return self._complete()

    def _earlier_files(self) -> list[str]:
        """Names of files that an earlier output under this prefix has, or was about to get. Those that the new
        one lacks must be removed: a leftover sidecar would be next to a shard it does not belong to."""
        names = {path.name for path in self.finals}
        with suppress(InputError):
            names |= {*(read_manifest(manifest_path(self.prefix)).get("files") or {})}
        with suppress(InputError, FileNotFoundError):
            journal = read_journal(self._journal_path)
            names |= {*journal["replaces"], *journal.get("finishing", {}).get("manifest", {}).get("files", {})}
        return sorted(name for name in names if is_of(self.prefix, name))

    def _complete(self) -> dict[str, Any]:
        """Do what `finish` recorded, from wherever it stopped, skipping what has been moved already."""
        todo, parent = self.journal["finishing"], self.prefix.parent
        manifest_path(self.prefix).unlink(missing_ok=True)
        sync(parent)
        for source, name in todo["moves"].items():
            if (self.folder / source).exists():
                if (parent / name).is_dir():
                    shutil.rmtree(parent / name)
                (self.folder / source).replace(parent / name)
        files = todo["manifest"]["files"]
        for name in {*self._replaces} - {*files}:
            _remove_file(parent, name)
        self._require(files)
        sync(parent)
        write_json(manifest_path(self.prefix), todo["manifest"])
        self._remove_folder()
        self.finished = todo["manifest"]
        return todo["manifest"]

    def _require(self, files: dict[str, Any]) -> None:
        """Raises InputError for a missing work file: the manifest must not say that all is well."""
        for name, recorded in files.items():
            path = self.prefix.parent / name
            if not path.is_file() or path.stat().st_size != recorded["bytes"]:
                raise InputError(
                    f"{path} is not the file that the run made, which was stopped while finishing; "
                    "pass --overwrite to start over"
                )

    def _empty_folder(self, but: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name not in but:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _remove_folder(self) -> None:
        self._journal_path.unlink(missing_ok=True)  # first: without it the rest is meaningless
        self._empty_folder({"lock"})
        (self.folder / "lock").unlink()
        with suppress(OSError):  # another run may already have taken it over
            self.folder.rmdir()
        self.close()

    def close(self) -> None:
        """Release the lock; the work folder stays for the next run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    if (folder / name).parent != folder:
        with suppress(OSError):  # not empty, or not there
            (folder / name).parent.rmdir()
