"""A data path that is a sidecar: it stands for its plain shard, read with its reflections.

    --data-path 0.7 out/w200.srp 0.3 out/plain_text_document

A sidecar names its shard by content (`describe_shard`) and by where it was, so both may be moved together. Either
may be on S3.
"""

from pathlib import Path

from megatron_srp.data.shards.indexed_shard import idx_path
from megatron_srp.data.shards.sidecar import SUFFIX, describe_shard, read_header
from megatron_srp.errors import InputError, UsageError
from megatron_srp.remote.drivers import on_s3
from megatron_srp.remote.expand import is_file
from megatron_srp.remote.remembered import remembered_on_s3


def is_sidecar(path: str) -> bool:
    """Whether a data path is a sidecar rather than a shard's prefix (which may end in .srp as well, but not on S3)."""
    return path.endswith(SUFFIX) and (on_s3(path) or ("://" not in path and not idx_path(path).exists()))


def plain_prefix(sidecar: str) -> str:
    """Path prefix of the shard that a sidecar was made for: next to it, or where the sidecar was made from it.

    Raises:
        UsageError, InputError: when the reflections are in the shard already, when the shard is not there, and when
            it has other content than the one that the sidecar was made for.
    """
    header = read_header(sidecar)
    if header["materialized"]:
        raise UsageError(
            f"{sidecar}: its reflections are in the shard next to it already; pass that shard, "
            f"{sidecar.removesuffix(SUFFIX)}"
        )
    wanted = header["info"].get("shard")
    if not wanted or "training_tokenizer" not in header["info"]:
        raise InputError(f"{sidecar}: does not say which shard it is for; make it with --input-shards")
    places = [_next_to(sidecar, wanted["name"]), *([wanted["path"]] if "path" in wanted else [])]
    present = [place for place in places if _is_there(place)]
    for place in present:
        found = describe_shard(place)
        if all(found[file] == wanted[file] for file in ("bin", "idx")):
            return place
    if present:
        raise UsageError(
            f"{sidecar}: made for the shard {wanted['name']} with other content than that of {present[0]}; put the "
            "shard that it was made for next to it, or make the sidecar again"
        )
    raise InputError(
        f"{sidecar}: its shard is not at {' or '.join(places)} (.bin and .idx); put it next to the sidecar, or pass "
        "its prefix and --srp-sidecar"
    )


def _next_to(sidecar: str, name: str) -> str:
    return f"{sidecar.rpartition('/')[0]}/{name}" if on_s3(sidecar) else str(Path(sidecar).parent / name)


@remembered_on_s3
def _is_there(prefix: str) -> bool:
    return is_file(f"{prefix}.bin") and is_file(f"{prefix}.idx")
