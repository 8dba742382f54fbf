"""The fsspec driver of each place, and its failures in one line.

The drivers retry failed requests and interrupted transfers themselves. Credentials are the usual ones: HF_TOKEN or
`hf auth login`; AWS_ACCESS_KEY_ID, a profile or an instance's role, and AWS_ENDPOINT_URL for a store that is not
Amazon's.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from megatron_srp.errors import InputError, UsageError
from megatron_srp.missing_packages import missing_packages_explained

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_TRIES = 8  # of an S3 request, about ten seconds in all; the hub's driver has a number of its own
_LOGIN = {
    "hf": "log in with `hf auth login` or set HF_TOKEN, and accept the data set's terms on its page if it has any",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true for a public bucket",
}


def scheme(name: str) -> str | None:
    """`hf` or `s3`; None for a path on this machine.

    Raises:
        UsageError: for any other place.
    """
    found = _SCHEME.match(name)
    if found and found[1].lower() not in _LOGIN:
        raise UsageError(f"{name}: {found[0]} is not supported; choose from hf://, s3:// and paths on this machine")
    return found[1].lower() if found else None


def on_s3(name: str) -> bool:
    """Whether a name is the URL of an object on S3. Megatron reads other storage too, such as msc://, which is not read
    here."""
    return name.startswith("s3://")


def driver(url: str) -> Any:
    """The file system of `url`'s place; one for each process and thread.

    Raises:
        UsageError: when its package is not installed.
    """
    kind = scheme(url)
    with missing_packages_explained(f"{url}:"):
        if kind == "hf":
            from huggingface_hub import HfFileSystem

            return HfFileSystem()
        import s3fs

        system = s3fs.S3FileSystem()
        system.retries = _TRIES
        return system


@contextmanager
def failures_explained(url: str) -> Iterator[None]:
    """Turns whatever a driver raises in the block into an InputError of one line."""
    try:
        yield
    except (InputError, UsageError):
        raise
    except Exception as error:
        raise InputError(f"{url}: {failure(url, error)}") from None


def failure(url: str, error: Exception) -> str:
    """What an exception of a driver means, and what to do."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if names & {"NoCredentialsError", "PartialCredentialsError", "GatedRepoError"}:
        return f"no credentials for it; {_LOGIN[scheme(url) or 's3']}"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"access is refused; {_LOGIN[scheme(url) or 's3']}"
    if "FileExpired" in names:
        return "the object changed while it was read; pass --overwrite to start over"
    if isinstance(error, FileNotFoundError) or status == 404:
        return "no such file, data set or bucket there; check the name" + _hidden(url)
    return f"failed ({type(error).__name__}: {error}); nothing is lost, rerun the command"


def _hidden(url: str) -> str:
    return f" (a private one looks the same: {_LOGIN['hf']})" if scheme(url) == "hf" else ""
