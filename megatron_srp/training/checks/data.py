"""The shards that a run reads: do they exist, and were they made with the run's tokenizer?

Imports neither torch nor Megatron. `srp preprocess` writes the manifest `PREFIX.srp.json` next to a
shard; shards made by other tools have none and are allowed.
"""

import argparse
import json
import struct
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError, UsageError
from megatron_srp.remote.drivers import on_s3
from megatron_srp.training.checks.end_of_document import end_of_document
from megatron_srp.training.checks.object_storage import prepare_data, remote_shard
from megatron_srp.training.checks.sidecars import (
    match_sidecars,
    only_megatron_reads,
    shard_of,
    sidecar_manifest,
    unreflected,
)

# Flags that name shards, and the split that each is for.
_BLENDS = {
    "data_path": "all",
    "train_data_path": "train",
    "valid_data_path": "valid",
    "test_data_path": "test",
    "srp_sft": "train",
    "srp_sft_valid": "valid",
}


def check_shards(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Check the shards in `args` and their tokenizer.

    Returns:
        flags: `--tokenizer-type` and `--tokenizer-model` from the manifests, for a run that sets neither.
        notes: what the user should know, one line each.
    """
    if args.mock_data:
        if args.srp_sidecar:
            raise UsageError("--srp-sidecar cannot be used with --mock-data, which reads no shard")
        return [], []
    prefixes = shard_prefixes(args)
    if not prefixes:
        raise UsageError("no data: pass --data-path PREFIX (the path of the shard's .bin without .bin)")
    prepare_data(prefixes, args, args.srp_sidecar or [])
    for prefix in prefixes:
        check_files(prefix)
        if not args.srp_sft:
            _refuse_conversations(prefix)
    notes = _check_conversations(args) if args.srp_sft else []
    sidecars = match_sidecars(args.srp_sidecar or [], prefixes)
    notes += [
        f"{prefix} has no .srp.json that lists it: used as it is, and its tokenizer is not checked"
        for prefix in prefixes
        if prefix not in sidecars and find_manifest(prefix) is None
    ]
    if not args.srp_sft:
        notes += unreflected(prefixes, sidecars)
    if args.use_checkpoint_args:  # the tokenizer is known once the checkpoint has been read
        return [], notes
    flags = check_tokenizer(args)
    if not (args.tokenizer_type or flags):
        raise UsageError(
            f"no tokenizer: {prefixes[0]} has no manifest to take it from; pass --tokenizer-type and --tokenizer-model"
        )
    return flags, notes


def _refuse_conversations(prefix: str) -> None:
    if (find_manifest(prefix) or {}).get("sft"):
        raise UsageError(
            f"{prefix} is a shard of conversations: its loss mask would be ignored here, and prompts learned. "
            f"Train on it with --srp-sft {prefix}"
        )


def _check_conversations(args: argparse.Namespace) -> list[str]:
    from megatron_srp.training.flags import sft_flags as sft

    training, validation = sft.training_set_of(args), sft.validation_set_of(args)
    return [training.describe()] + ([f"validation: {validation.describe()}"] if validation else [])


def check_tokenizer(args: argparse.Namespace) -> list[str]:
    """Refuse a tokenizer other than the shards' own; returns the flags that set it if `args` do not."""
    _check_tokenizer_files(args.tokenizer_model)
    prefixes = shard_prefixes(args)
    found = {prefix: find_manifest(prefix) for prefix in prefixes}
    manifests = {prefix: manifest for prefix, manifest in found.items() if manifest is not None}
    sidecars = match_sidecars(args.srp_sidecar or [], prefixes)
    # A sidecar may add tokens to its shard's tokenizer: if there is one, it decides.
    manifests = {prefix: sidecar_manifest(path) for prefix, path in sidecars.items()} | {
        prefix: manifest for prefix, manifest in manifests.items() if prefix not in sidecars
    }
    if not manifests:
        return []
    first, manifest = next(iter(manifests.items()))
    kind, model = args.tokenizer_type, args.tokenizer_model
    flags: list[str] = []
    if kind is None:
        kind = manifest["tokenizer"]["type"]
        flags += ["--tokenizer-type", kind]
    if model is None:
        model = manifest["tokenizer"]["model"]
        flags += ["--tokenizer-model", model]
        if not Path(model).exists():
            way = "is on S3; copy it here and pass the copy" if on_s3(model) else "is missing; pass its new path"
            raise InputError(f"{first}: made with the tokenizer {model}, which {way} with --tokenizer-model")
    compare_tokenizer(kind, model, manifests)
    end_of_document({prefix: manifest["tokenizer"] for prefix, manifest in manifests.items()})
    return flags


def blends(args: argparse.Namespace) -> list[tuple[str, list[tuple[float | None, str]]]]:
    """The blends of a run: the split each is for ("all" for `--data-path`), and weights (if any) with path prefixes."""
    found = [(split, getattr(args, name) or []) for name, split in _BLENDS.items()]
    if args.data_args_path:
        found.append(("all", _read(args.data_args_path, "--data-args-path").split()))
    if args.per_split_data_args_path:
        found += zip(("train", "valid", "test"), _read_splits(args.per_split_data_args_path), strict=True)
    return [(split, _weighted(blend)) for split, blend in found if blend]


def shard_prefixes(args: argparse.Namespace) -> list[str]:
    """Data paths of a run, each once, in order: prefixes of shards, and sidecars."""
    return list(dict.fromkeys(prefix for _, blend in blends(args) for _, prefix in blend))


def _weighted(blend: list[str]) -> list[tuple[float | None, str]]:
    # Megatron's rule: alternating weights and prefixes if every other item is a number, else prefixes.
    if len(blend) % 2 == 0 and all(_is_number(item) for item in blend[::2]):
        return [(float(weight), prefix) for weight, prefix in zip(blend[::2], blend[1::2], strict=True)]
    return [(None, prefix) for prefix in blend]


def _is_number(item: str) -> bool:
    try:
        float(item)
    except ValueError:
        return False
    return True


def _read(path: str, flag: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise InputError(f"{flag} {path}: {error.strerror}") from None


def _read_splits(path: str) -> list[list[str]]:
    text = _read(path, "--per-split-data-args-path")
    try:
        splits = json.loads(text)
        blends = [splits[name] or [] for name in ("train", "valid", "test")]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f'{path}: not a JSON object with the keys "train", "valid" and "test", each a list of shards'
        ) from None
    return [blend.split() if isinstance(blend, str) else blend for blend in blends]


def check_files(prefix: str) -> None:
    """Refuse a data path that is neither a shard's prefix, with the name that was probably meant, nor a sidecar."""
    prefix = shard_of(prefix)
    if only_megatron_reads(prefix):
        return
    if on_s3(prefix):
        num_sequences(prefix)
        return
    missing = [end for end in (".bin", ".idx") if not Path(prefix + end).is_file()]
    if not missing:
        num_sequences(prefix)
        return
    path = Path(prefix)
    if path.suffix in (".bin", ".idx") and path.is_file():
        raise InputError(f"{prefix}: pass the shard's prefix, {prefix[:-4]}, without {path.suffix}")
    if len(missing) == 1:
        raise InputError(f"{prefix}{missing[0]} is missing: a shard is a .bin and an .idx file")
    siblings = sorted(str(found)[:-4] for found in path.parent.glob(path.name + "_*.idx"))
    hint = f"; did you mean {siblings[0]}?" if siblings else "; no shard's name begins like that"
    raise InputError(f"{prefix}.bin and {prefix}.idx do not exist{hint}")


def num_sequences(prefix: str) -> int:
    """The number of sequences (for GPT: documents) of a shard, read from its index's header."""
    return read_index_header(prefix)[1]


def read_index_header(prefix: str) -> tuple[int, int]:
    """Megatron's code for a shard's token type, and its number of sequences."""
    header = struct.Struct("<9sQBQ")  # magic, version, code of the dtype, sequences
    prefix = shard_of(prefix)
    if on_s3(prefix):
        start = remote_shard(prefix).index_header
    else:
        with Path(prefix + ".idx").open("rb") as file:
            start = file.read(header.size)
    if len(start) < header.size or not start.startswith(b"MMIDIDX\x00\x00"):
        raise InputError(f"{prefix}.idx is not a Megatron index: truncated, or another format")
    _, _, code, sequences = header.unpack(start)
    return code, sequences


def find_manifest(prefix: str) -> dict[str, Any] | None:
    """The manifest that lists the shard; None if there is none that can be read."""
    from megatron_srp.data.shards import manifest

    return None if only_megatron_reads(prefix) else manifest.find_manifest(shard_of(prefix))


def _check_tokenizer_files(model: str | None) -> None:
    # A name such as `gpt2` or `org/model` may be on the Hugging Face hub; a path can only be local.
    is_path = model is not None and (model.startswith(("/", ".", "~")) or model.count("/") > 1)
    if model is not None and is_path and not Path(model).exists():
        raise InputError(f"--tokenizer-model {model}: no such file or folder")


def _fingerprint(kind: str, model: str) -> str:
    from megatron_srp.tokenization import tokenizer_fingerprint

    return tokenizer_fingerprint(kind, model)


def compare_tokenizer(kind: str, model: str, manifests: dict[str, dict[str, Any]]) -> None:
    """Refuse shards that were made with another tokenizer than `model`.

    Args:
        manifests: by the shards' prefixes, or by sidecars'.
    """
    fingerprint = _fingerprint(kind, model)
    # Plain text has the same ids in a tokenizer that a sidecar only extends.
    written = [m for m in manifests.values() if m["tokenizer"]["fingerprint"] == fingerprint]
    accepted = {fingerprint, *(m["extends"] for m in written if "extends" in m)}
    for prefix, manifest in manifests.items():
        made_with = manifest["tokenizer"]
        if made_with["fingerprint"] not in accepted:
            raise UsageError(
                f"{prefix}: its tokenizer is {made_with['model']} (fingerprint "
                f"{made_with['fingerprint'][:12]}), not {model} ({fingerprint[:12]}): the token ids would "
                f"mean other text. Pass that tokenizer, or preprocess the corpus again with this one"
            )
