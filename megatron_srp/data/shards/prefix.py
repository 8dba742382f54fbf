"""Output prefixes as users give them, checked before anything is read or written."""

from megatron_srp.errors import UsageError, is_utf8


def output_prefix(given: str) -> str:
    """`given`, if files can be named after it; a type for argparse.

    Raises:
        UsageError: for a folder, whose files would land beside it and not in it, and for a name that is not
            UTF-8, which no manifest could hold.
    """
    if given.rpartition("/")[2] in ("", ".", ".."):
        raise UsageError(f"output prefix {given!r}: names a folder; add the beginning of the files' names: FOLDER/NAME")
    if not is_utf8(given):
        raise UsageError(f"output prefix {given!r}: is not UTF-8; choose another name")
    return given
