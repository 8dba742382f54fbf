"""Settings of a Megatron program that would undo the method, refused before its datasets are built.

Everything is read from the program's own dataset configuration, so this works for any program of megatron.core.
"""

from typing import Any

from megatron_srp.data.policies.policy import is_treated
from megatron_srp.data.shards.data_path import is_sidecar
from megatron_srp.errors import UsageError
from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks.end_of_document import end_of_document
from megatron_srp.training.checks.sidecars import sidecar_manifest
from megatron_srp.training.datasets.run_tokenizer import run_tokenizer
from megatron_srp.training.flags.refused import REFUSED, check_pad_token
from megatron_srp.training.host.object_storage import prepare_object_storage

_LIBRARIES = {"huggingface": "HuggingFaceTokenizer", "sentencepiece": "SentencePieceTokenizer"}


def check_data(config: Any) -> None:
    """Refuse data paths that cannot be read, and settings that do not go with their reflections; and let the datasets
    take the end-of-document token that was chosen for the data.

    Args:
        config: Megatron's GPTDatasetConfig, or a subclass.

    Raises:
        UsageError, InputError: with the reason and the way out.
    """
    paths = data_paths(config)
    prepare_object_storage(paths, config)
    for path in paths:
        shards.check_files(path)
    manifests = reflected_manifests(paths)
    if manifests:
        check_resets(config)
        config.tokenizer = tokenizer = _ending_as_the_data(config.tokenizer, manifests)
        check_tokenizer(tokenizer, manifests)
        check_pad_token(_ask(tokenizer, "pad"), _ask(tokenizer, "eod"), bool(config.allow_ambiguous_pad_tokens))


def data_paths(config: Any) -> list[str]:
    """The data paths of all blends, each once."""
    blends = [config.blend, *(config.blend_per_split or [])]
    return list(dict.fromkeys(path for blend in blends if blend for path in blend[0]))


def reflected_manifests(paths: list[str]) -> dict[str, dict[str, Any]]:
    """The manifests of those data paths that have reflections."""
    return {path: manifest for path in paths if (manifest := _reflected_manifest(path))}


def _reflected_manifest(path: str) -> dict[str, Any] | None:
    """The tokenizer of a sidecar, or of a shard with reflections, as in a manifest; None for a plain shard."""
    if is_sidecar(path):
        return sidecar_manifest(path)
    manifest = shards.find_manifest(path)
    return manifest if manifest and is_treated(manifest) else None


def check_resets(config: Any) -> None:
    """Refuse positions or masks that restart at each end of text; `config` may be Megatron's arguments as well."""
    for field in ("reset_position_ids", "reset_attention_mask"):
        flag = "--" + field.replace("_", "-")
        if getattr(config, field, False):
            raise UsageError(f"{flag} cannot be used on data with reflections: {REFUSED[flag]}")


def _ending_as_the_data(tokenizer: Any, manifests: dict[str, dict[str, Any]]) -> Any:
    """The program's tokenizer with the data's end of a document; one whose files are not the data's is refused."""
    kind, model = _LIBRARIES.get(_ask(tokenizer, "library")), _ask(tokenizer, "path")
    if not (kind and model):
        return tokenizer
    shards.compare_tokenizer(kind, str(model), manifests)
    end = end_of_document({path: manifest["tokenizer"] for path, manifest in manifests.items()})
    return run_tokenizer(tokenizer, {"end_of_document": end})


def check_tokenizer(tokenizer: Any, manifests: dict[str, dict[str, Any]]) -> None:
    """Compare the program's tokenizer with the data's by its sizes; raises UsageError."""
    eod, size = _ask(tokenizer, "eod"), _ask(tokenizer, "vocab_size")
    for path, manifest in manifests.items():
        made_with = manifest["tokenizer"]
        same_end = made_with["eos_id"] is None or eod == made_with["eos_id"]
        if same_end and (size is None or size >= made_with["vocab_size"]):
            continue
        raise UsageError(
            f"{path}: its tokenizer is {made_with['model']} with {made_with['vocab_size']} tokens and end of text "
            f"{made_with['eos_id']}, the program's has {size} tokens and end of text {eod}: the ids would mean other "
            "text. Pass --tokenizer-type and --tokenizer-model of the data, or preprocess the corpus again"
        )


def _ask(tokenizer: Any, name: str) -> Any:
    """An attribute of the tokenizer; None where it has none. Megatron's raise what they like for those they lack."""
    try:
        return getattr(tokenizer, name, None)
    except (AttributeError, NotImplementedError, TypeError):
        return None
