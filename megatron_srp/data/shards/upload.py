"""Shards on S3: made in a work folder on this machine, uploaded when they are finished, their manifest last."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from megatron_srp.data.shards.manifest import manifest_path, parse_manifest, read_manifest
from megatron_srp.data.shards.prefix import is_of
from megatron_srp.data.shards.sidecar import sidecar_path
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.remote.objects import Objects, split_output, twin


class ShardUpload:
    """The way of one output to S3.

    Args:
        url: the output prefix, s3://BUCKET/FOLDER/NAME.
        work: the folder in which everything is made first.

    Attributes:
        prefix: the output prefix on this machine.
    """

    def __init__(self, url: str, work: str | Path) -> None:
        folder, _ = split_output(url)
        self.url, self.prefix = url, twin(url, work)
        self._objects = Objects(folder)
        self._manifest = manifest_path(self.prefix).name
        self._overwrite = False

    def prepare(self, overwrite: bool, keep_finished: bool) -> None:
        """Look for an earlier output.

        Args:
            keep_finished: fetch its manifest, so that the same settings find it finished.

        Raises:
            UsageError: when there is one, which neither flag allows.
        """
        self._overwrite = overwrite
        if overwrite or not self._objects.exists(self._manifest):
            return
        if not keep_finished:
            raise UsageError(
                f"{self.url}.srp.json exists already; pass --overwrite to replace it, or another --output-prefix"
            )
        self._objects.download(self._manifest, manifest_path(self.prefix))

    def waits_with(self, key: str) -> bool:
        """Whether a finished output waits here for its upload, and its manifest has that key."""
        path = manifest_path(self.prefix)
        return path.exists() and key in read_manifest(path)

    def publish(self) -> None:
        """Upload the finished output and remove it here. What an earlier try has uploaded is not sent again.

        Raises:
            OutputError: when S3 fails, or has such a file that belongs to no output; the output stays here, and
                rerunning the command uploads the rest.
        """
        manifest = read_manifest(manifest_path(self.prefix))
        missing = {
            name: recorded["xxh3_128"]
            for name, recorded in manifest["files"].items()
            if not self._objects.has(name, recorded["bytes"], recorded["xxh3_128"])
        }
        earlier = self._earlier()
        if earlier is None and not self._overwrite:
            self._refuse_existing(missing)
        if missing:
            self._objects.remove(self._manifest)  # it must not describe a mixture of two outputs
        # A leftover sidecar would be next to a shard it does not belong to.
        sidecars = {sidecar_path(shard["name"]).name for shard in manifest["shards"]}
        for name in ({*(earlier or ())} | sidecars) - {*manifest["files"]}:
            self._objects.remove(name)
        for name, checksum in missing.items():
            self._objects.upload(self.prefix.parent / name, name, checksum)
        self._objects.write(self._manifest, json.dumps(self._moved(manifest), indent=2, ensure_ascii=False).encode())
        for name in [*manifest["files"], self._manifest]:
            (self.prefix.parent / name).unlink(missing_ok=True)

    def _earlier(self) -> list[str] | None:
        """Files of the output that is to be replaced; None where no manifest is there."""
        if not self._objects.exists(self._manifest):
            return None
        with suppress(InputError):
            files = parse_manifest(self._objects.read(self._manifest), f"{self.url}.srp.json")["files"] or {}
            return [name for name in files if is_of(self.prefix, name)]
        return []

    def _refuse_existing(self, names: Iterable[str]) -> None:
        for name in names:
            if self._objects.exists(name):
                raise OutputError(
                    f"{self._objects.url}/{name} is there, and no finished output lists it: move it away, or pass "
                    "another output prefix"
                )

    def _moved(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The manifest, with the place where a tokenizer that belongs to the shards is from now on."""
        tokenizer = manifest["tokenizer"]
        inside = Path(tokenizer["model"])
        folder = self.prefix.parent.resolve()
        if not inside.is_relative_to(folder):
            return manifest
        there = f"{self.url.rpartition('/')[0]}/{inside.relative_to(folder).as_posix()}"
        return manifest | {"tokenizer": tokenizer | {"model": there}}
