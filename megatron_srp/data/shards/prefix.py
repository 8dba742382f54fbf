"""Checks of output prefixes, before anything is read or written."""

from pathlib import Path, PurePath

from megatron_srp.errors import UsageError, is_utf8

MOST_BYTES = 150  # file systems allow 255, of which the rest is for keys, partitions and endings


def output_prefix(given: str) -> str:
    """`given`, if file names can begin with it; a type for argparse.

    Raises:
        UsageError: for a folder, as the files would be next to it and not in it; for a name that is not UTF-8,
            which a manifest cannot store; for one with, say, a line feed; and for one that is too long.
    """
    if given.rpartition("/")[2] in ("", ".", ".."):
        raise UsageError(f"output prefix {given!r}: is a folder; add the start of the file names: FOLDER/NAME")
    if not is_utf8(given):
        raise UsageError(f"output prefix {given!r}: is not UTF-8; choose another name")
    if not given.isprintable():
        raise UsageError(f"output prefix {given!r}: has a character that cannot be printed; choose another name")
    if len(given.rpartition("/")[2].encode()) > MOST_BYTES:
        raise UsageError(
            f"output prefix {given!r}: the name is longer than {MOST_BYTES} bytes, too long for the names of the files "
            "that begin with it; choose a shorter one"
        )
    return given


def is_of(prefix: Path, name: str) -> bool:
    """Whether a name that a manifest or a journal lists can be that of a file of the output: it may be removed then."""
    return name.startswith(prefix.name) and ".." not in PurePath(name).parts
