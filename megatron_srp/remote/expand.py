"""The remote files that a URL names: one object, a folder, or a pattern."""

import glob
from pathlib import Path, PurePosixPath
from typing import Any

from megatron_srp.errors import UsageError
from megatron_srp.remote.drivers import driver, failures_explained, scheme
from megatron_srp.remote.remote_file import InputFile, RemoteFile, version_of


def find_remote(url: str) -> tuple[list[RemoteFile], bool]:
    """The files that `url` names, in the order that a copy on a disk has, and whether it is a folder.

    Raises:
        InputError: when the place cannot be reached or read.
        UsageError: when the driver is not installed.
    """
    with failures_explained(url):
        system = driver(url)
        system.invalidate_cache()
        root, pinned_root, commit = _roots(system, url)
        below = system._strip_protocol(url).removeprefix(root)
        found, is_folder = _listed(system, pinned_root + below)
    files = []
    for name in sorted(found, key=PurePosixPath):
        shown = f"{scheme(url)}://{root}{name.removeprefix(pinned_root)}"
        files.append(RemoteFile(shown, name, int(found[name]["size"]), version_of(found[name]), commit))
    return files, is_folder


def input_file(name: str) -> InputFile:
    """The one file that a path or a URL names.

    Raises:
        UsageError: for a URL of several files.
    """
    if scheme(name) is None:
        return Path(name)
    files, is_folder = find_remote(name)
    if is_folder or len(files) != 1:
        raise UsageError(f"{name}: names {'a folder' if is_folder else f'{len(files)} files'}; pass one file")
    return files[0]


def is_file(name: str) -> bool:
    """Whether a path or a URL names a file.

    Raises:
        InputError: when the place cannot be reached or read.
    """
    if scheme(name) is None:
        return Path(name).is_file()
    with failures_explained(name):
        return bool(driver(name).isfile(name))


def _roots(system: Any, url: str) -> tuple[str, str, str]:
    """Of a repository on the hub: its path as the user names it, its path at the commit that this is now, and the
    commit, so that all files are those of one moment. Else empty."""
    if scheme(url) != "hf":
        return "", "", ""
    at = system.resolve_path(url)
    if not hasattr(at, "repo_id"):  # a storage bucket, which has no commits
        return "", "", ""
    from huggingface_hub import HfApi

    commit = str(HfApi().repo_info(at.repo_id, revision=at.revision, repo_type=at.repo_type).sha)
    return at.root, f"{at.root.partition('@')[0]}@{commit}", commit


def _listed(system: Any, path: str) -> tuple[dict[str, dict[str, Any]], bool]:
    """What the driver says about each file, by path; and whether `path` is a folder."""
    if glob.has_magic(path) and not system.exists(path):
        return _files(system.glob(path, detail=True)), False
    info = system.info(path)
    if info["type"] == "file":
        return {info["name"]: info}, False
    return _files(system.find(path, detail=True)), True


def _files(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: info for name, info in found.items() if info["type"] == "file"}
