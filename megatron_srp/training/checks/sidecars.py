"""Which sidecar belongs to which shard of a run, checked before Megatron is imported.

A sidecar records fingerprints of the shard it was made for, so `--srp-sidecar` takes files in any order,
and a shard that was moved or renamed is still found.
"""

from collections.abc import Sequence
from typing import Any

from megatron_srp.errors import InputError, UsageError
from megatron_srp.remote.drivers import on_s3
from megatron_srp.remote.expand import is_file


def match_sidecars(sidecars: Sequence[str], prefixes: Sequence[str]) -> dict[str, str]:
    """The sidecar of each data path that has one: the path itself, or the one of `sidecars` that is for its shard.

    Args:
        sidecars: as `--srp-sidecar` names them.
        prefixes: the data paths of the run.

    Raises:
        UsageError, InputError: for a file that is not a sidecar, whose reflections are in the shard already,
            or that belongs to none of the shards, and for two that belong to the same shard.
    """
    matched = {path: path for path in prefixes if shard_of(path) != path}
    if not sidecars:
        return matched
    from megatron_srp.data.shards.sidecar import describe_shard

    shards = {
        prefix: describe_shard(prefix)
        for prefix in prefixes
        if prefix not in matched and not only_megatron_reads(prefix)
    }
    for path in sidecars:
        wanted = _made_for(path)
        own = [prefix for prefix, shard in shards.items() if _same(shard, wanted)]
        if not own:
            raise UsageError(
                f"--srp-sidecar {path}: made for the shard {wanted['name']} with other content than that of "
                f"{', '.join(prefixes)}; pass the shard it was made for, or make its sidecar again"
            )
        for prefix in own:
            if prefix in matched:
                raise UsageError(f"--srp-sidecar: {matched[prefix]} and {path} are both for {prefix}; pass one")
            matched[prefix] = path
    return matched


def shard_of(path: str) -> str:
    """The shard that a data path reads: the one that a sidecar is for, or the path itself."""
    if not path.endswith(".srp"):
        return path
    from megatron_srp.data.shards.data_path import is_sidecar, plain_prefix

    return plain_prefix(path) if is_sidecar(path) else path


def only_megatron_reads(prefix: str) -> bool:
    """Whether a shard is on object storage other than S3, so that nothing is known about it here."""
    return "://" in prefix and not on_s3(prefix)


def _made_for(path: str) -> dict[str, str]:
    from megatron_srp.data.shards.sidecar import read_header

    header = read_header(path)
    if header["materialized"]:
        raise UsageError(
            f"--srp-sidecar {path}: its reflections are in the shard next to it already; train on that shard "
            f"without the flag"
        )
    if not {"shard", "training_tokenizer"} <= header["info"].keys():
        raise InputError(f"{path}: does not say which shard it is for; make it with --input-shards")
    wanted: dict[str, str] = header["info"]["shard"]
    return wanted


def _same(shard: dict[str, str], other: dict[str, str]) -> bool:
    return all(shard[file] == other[file] for file in ("bin", "idx"))


def sidecar_manifest(path: str) -> dict[str, Any]:
    """A sidecar's tokenizer, as in a manifest, and the tokenizer that it `extends`."""
    from megatron_srp.data.shards.sidecar import read_header

    info = read_header(path)["info"]
    return {"tokenizer": info["training_tokenizer"], "extends": info["tokenizer"]["fingerprint"]}


def unreflected(prefixes: Sequence[str], sidecars: dict[str, str]) -> list[str]:
    """A note for each shard that is read without reflections where that may be unintended."""
    from megatron_srp.data.policies.policy import is_treated
    from megatron_srp.data.shards.manifest import find_manifest
    from megatron_srp.data.shards.sidecar import SUFFIX

    notes = []
    for prefix in prefixes:
        if prefix in sidecars or only_megatron_reads(prefix):
            continue
        sidecar = f"{prefix}{SUFFIX}"
        if _is_for_a_plain_shard(sidecar):
            notes.append(f"{sidecar} is not used: trained on without reflections; to use it: --srp-sidecar {sidecar}")
        elif (manifest := find_manifest(prefix)) is not None and not is_treated(manifest):
            notes.append(f"{prefix} has no sidecar (--srp-sidecar FILE.srp): trained on without reflections")
    return notes


def _is_for_a_plain_shard(path: str) -> bool:
    from megatron_srp.data.shards.sidecar import read_header

    try:
        return is_file(path) and not read_header(path)["materialized"]
    except InputError:  # nobody asked for this file, so it does not matter that it is damaged
        return False
