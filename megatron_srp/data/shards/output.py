"""The files of one output prefix: a work folder with a lock and a journal, then everything at once.

While a run is under way all it has written lies in PREFIX.srp-work/. The journal there names the
settings and how far the run came; it is replaced after the data it speaks of is on disk. At the end
every file is brought to the disk, files are renamed to their final names, and the manifest, which
lists them with their checksums, is written last.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from megatron_srp.data.shards.journal import first_change, read_journal, refuse_other_settings, write_journal
from megatron_srp.data.shards.lock import take_lock
from megatron_srp.data.shards.manifest import manifest_path, read_manifest, token_software
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.files import make_folder, seal, sync, write_json

WORK_SUFFIX = ".srp-work"


class Output:
    """Opens `prefix` for writing, or for going on with a run that was stopped.

    Args:
        prefix: of all files written.
        settings: everything that decides the result; a resumed run must have the same. The versions of
            the software that decides tokens belong to them: a shard whose halves two versions made
            could not be made again, so after an upgrade a half-done output is refused, not mixed.
        finals: names of the files the run may leave beside the manifest.
        overwrite: begin anew and replace what is there.

    Attributes:
        journal: what was recorded last.
        finished: the manifest, once everything has its final name; a run that was killed while it
            finished is completed at once.

    Raises:
        UsageError: when the output is finished already, in use by another run, or half-done with other
            settings.
        InputError: when the journal or what it speaks of is damaged.
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
            self._remove_folder()  # empty, or what a run left that was killed as it cleaned up
            raise UsageError(
                f"{there[0]} exists already{self._since()}; pass --overwrite to replace it, or another --output-prefix"
            )

    def _since(self) -> str:
        """What has changed since the output was made that is there; "" where nothing has, or nobody knows."""
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
            if not self._nothing_done():  # a first try that failed on a misspelled key, say, costs no --overwrite
                refuse_other_settings(self.folder, self.journal["settings"], self.settings)
                self._replaces = self.journal["replaces"]
                if "finishing" in self.journal:
                    self._complete()
                return
        self._replaces = self._earlier_files()
        self.commit({})  # before the folder is emptied: the old journal may be all that knows of files to replace
        self._empty_folder({"lock", "journal.json"})
        (self.folder / "lock").touch()
        sync(self.prefix.parent)

    def _nothing_done(self) -> bool:
        """Whether the earlier run committed nothing, and was not about to replace anything."""
        return not (self.journal["state"] or self.journal["replaces"] or "finishing" in self.journal)

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
        one has no like of must go: a sidecar left behind would lie beside a shard it does not belong to."""
        names = {path.name for path in self.finals}
        with suppress(InputError):
            names |= {*(read_manifest(manifest_path(self.prefix)).get("files") or {})}
        with suppress(InputError, FileNotFoundError):
            journal = read_journal(self._journal_path)
            names |= {*journal["replaces"], *journal.get("finishing", {}).get("manifest", {}).get("files", {})}
        return sorted(n for n in names if n.startswith(self.prefix.name) and ".." not in PurePath(n).parts)

    def _complete(self) -> dict[str, Any]:
        """Do what `finish` recorded, from wherever it stopped: what has moved already is left alone."""
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
        """A work file that somebody took away must not end in a manifest that says all is well."""
        for name, recorded in files.items():
            path = self.prefix.parent / name
            if not path.is_file() or path.stat().st_size != recorded["bytes"]:
                raise InputError(
                    f"{path} is not the file that the run made, which was stopped as it finished; "
                    "pass --overwrite to begin anew"
                )

    def _empty_folder(self, but: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name not in but:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _remove_folder(self) -> None:
        self._journal_path.unlink(missing_ok=True)  # first: without it the rest means nothing
        self._empty_folder({"lock"})
        (self.folder / "lock").unlink()
        with suppress(OSError):  # another run may have made it its own already
            self.folder.rmdir()
        self.close()

    def close(self) -> None:
        """Let go of the lock; the work folder stays for the next run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    if (folder / name).parent != folder:
        with suppress(OSError):  # not empty, or not there
            (folder / name).parent.rmdir()
