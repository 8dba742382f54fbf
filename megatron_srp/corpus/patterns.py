"""Files of a corpus, named by paths, folders and patterns."""

import glob
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath

from megatron_srp.errors import UsageError, is_utf8
from megatron_srp.remote.drivers import scheme
from megatron_srp.remote.remote_file import InputFile, RemoteFile

_NO_CORPUS = "no .jsonl, .json or .parquet file in this folder; pass the files"
_SUFFIXES = re.compile(r"\.(jsonl|ndjson|json|parquet)(\.(gz|zst|bz2|xz))?$", re.IGNORECASE)


def expand_inputs(patterns: Sequence[str], flag: str = "--input") -> list[InputFile]:
    """Files named by paths, folders and glob patterns, hf:// and s3:// URLs too, in the order given; those of each are
    sorted.

    A folder stands for the corpus files below it, by their names; hidden ones and those of Hive and Spark that begin
    with _ are left out.

    Args:
        flag: the flag that they come from, for the messages.

    Raises:
        UsageError: when a pattern matches nothing or a file is named twice.
        InputError: when a remote place cannot be read.
    """
    files: list[InputFile] = []
    for pattern in patterns:
        files += _remote_files(pattern, flag) if scheme(pattern) else _local_files(pattern, flag)
    names = Counter(str(file.resolve()) for file in files)
    twice = [file for file in files if names[str(file.resolve())] > 1]
    if twice:
        raise UsageError(f"{flag} names {twice[0]} twice; its documents would be in the shard twice")
    return files


def _local_files(pattern: str, flag: str) -> list[Path]:
    is_pattern = glob.has_magic(pattern) and not Path(pattern).exists()
    found = sorted(map(Path, glob.glob(pattern, recursive=True))) if is_pattern else [Path(pattern)]
    if not found:
        raise UsageError(f"{flag} {pattern}: no file matches; for folders inside folders write 'FOLDER/**/*.jsonl'")
    files: list[Path] = []
    for path in found:
        files += _corpus_files(path, flag) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise UsageError(f"{flag} {file}: {_why_no_file(file)}")
        if not is_utf8(str(file)):
            raise UsageError(f"{flag} {str(file)!r}: the name is not UTF-8; rename the file")
    return files


def _remote_files(url: str, flag: str) -> list[RemoteFile]:
    from megatron_srp.remote.expand import find_remote

    files, is_folder = find_remote(url)
    if is_folder:
        folder = PurePosixPath(url)
        files = [file for file in files if _is_corpus_file(PurePosixPath(file.url).relative_to(folder))]
        if not files:
            raise UsageError(f"{flag} {url}: {_NO_CORPUS}")
    if not files:
        raise UsageError(f"{flag} {url}: no file matches; for folders inside folders write '.../**/*.parquet'")
    return files


def _is_corpus_file(path: PurePath) -> bool:
    """Whether a path relative to a folder of the user's belongs to the corpus in it."""
    return bool(_SUFFIXES.search(path.name)) and not any(part[0] in "._" for part in path.parts)


def _corpus_files(folder: Path, flag: str) -> list[Path]:
    paths = (path for path in sorted(folder.rglob("*")) if _is_corpus_file(path.relative_to(folder)))
    found = [path for path in paths if path.is_file()]
    if not found:
        raise UsageError(f"{flag} {folder}: {_NO_CORPUS}")
    return found


def _why_no_file(path: Path) -> str:
    if path.exists():
        return "is a pipe or device; a stopped run could not read it again, so write it to a file first"
    return "no such file"
