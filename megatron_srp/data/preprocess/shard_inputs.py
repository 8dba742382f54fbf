"""Which existing shards a run reads, and checks of them and of its output names."""

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_srp.data.policies.policy import is_treated
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.manifest import find_manifest, manifest_path, read_manifest
from megatron_srp.data.shards.sidecar import read_header, sidecar_path
from megatron_srp.errors import InputError, UsageError
from megatron_srp.tokenization import TextTokenizer, load_tokenizer

_FLAG = "--input-shards"


def expand_shards(patterns: Sequence[str]) -> list[Path]:
    """Prefixes named by prefixes and glob patterns of them, in the order given, each pattern's sorted.

    Raises:
        UsageError, InputError: when one is missing, named twice, or contains reflections already.
    """
    prefixes: list[Path] = []
    for pattern in patterns:
        if pattern.endswith((".bin", ".idx")):
            raise UsageError(f"{_FLAG} {pattern}: pass the shard's prefix, {pattern[:-4]}")
        found = sorted(glob.glob(f"{pattern}.idx")) if glob.has_magic(pattern) else [f"{pattern}.idx"]
        if not found:
            raise UsageError(f"{_FLAG} {pattern}: no shard matches; is the pattern quoted against the shell?")
        prefixes += [Path(name.removesuffix(".idx")) for name in found]
    twice = [prefix for prefix, n in Counter(prefix.resolve() for prefix in prefixes).items() if n > 1]
    if twice:
        raise UsageError(f"{_FLAG} names {twice[0]} twice")
    for prefix in prefixes:
        IndexedShard(prefix)  # says what is wrong with it
        _refuse_reflected(prefix)
    return prefixes


def _refuse_reflected(prefix: Path) -> None:
    sidecar = sidecar_path(prefix)
    reflected = sidecar.is_file() and read_header(sidecar)["materialized"]
    if reflected or is_treated(find_manifest(prefix) or {}):
        raise InputError(f"{_FLAG} {prefix}: contains reflections already; take them out with `srp strip` first")


def shard_tokenizer(
    prefixes: Sequence[Path], tokenizer_type: str | None, model: str | None, eod_token: str | None = None
) -> TextTokenizer:
    """The given tokenizer and end-of-document token, or those of the shards' manifest; refuses others than the shards
    were made with."""
    manifests = {prefix: manifest for prefix in prefixes if (manifest := find_manifest(prefix))}
    if tokenizer_type is None or model is None:
        if not manifests:
            raise UsageError(
                f"{prefixes[0]} has no manifest to take the tokenizer from; pass --tokenizer-type and --tokenizer-model"
            )
        known = next(iter(manifests.values()))["tokenizer"]
        tokenizer_type, model = tokenizer_type or known["type"], model or known["model"]
    tokenizer = load_tokenizer(tokenizer_type, model, eod_token)
    for prefix, manifest in manifests.items():
        made_with = manifest["tokenizer"]
        if made_with["fingerprint"] != tokenizer.fingerprint:
            raise UsageError(f"{prefix} was made with the tokenizer {made_with['model']}, not {model}")
    return _ending_alike(tokenizer, manifests, eod_token)


def _ending_alike(
    tokenizer: TextTokenizer, manifests: dict[Path, dict[str, Any]], eod_token: str | None
) -> TextTokenizer:
    """The tokenizer with the shards' end-of-document token, which may be none but the given one."""
    eods = [manifest["tokenizer"].get("eod_token") for manifest in manifests.values()]
    tokenizer = tokenizer.ending_documents_with(eod_token or next(iter(eods), None))
    for prefix, manifest in manifests.items():
        made_with = manifest["tokenizer"]
        if made_with["eos_id"] != tokenizer.eos_id:
            own = made_with.get("eod_token") or f"the token {made_with['eos_id']}"
            raise UsageError(
                f"{prefix} was made with the end-of-document token {own}, not {tokenizer.eos_text}; leave --eod-token "
                "out, and process shards of different tokens in separate runs"
            )
    return tokenizer


def output_names(output_prefix: Path, shards: Sequence[Path], materialize: bool) -> list[str]:
    """PREFIX_SHARD for each, or the shard's own name where it begins with the prefix's.

    Raises:
        UsageError: when two would have the same name, or the output would replace a part of the input.
    """
    own = f"{output_prefix.name}_"
    names = [shard.name if shard.name.startswith(own) else own + shard.name for shard in shards]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise UsageError(
            f"{_FLAG}: two shards would become {twice[0]}; process each in a separate run with its own --output-prefix"
        )
    here = {shard.name for shard in shards if shard.parent.resolve() == output_prefix.parent.resolve()}
    target = manifest_path(output_prefix)
    described = {shard["name"] for shard in read_manifest(target)["shards"]} if target.is_file() else set()
    if here & (described | (set(names) if materialize else set())):
        raise UsageError(f"--output-prefix {output_prefix} is that of the input itself; choose another")
    return names
