"""What a model was trained on, kept in its checkpoints: another tokenizer or format would undo its training.

Megatron keeps a run's arguments in each checkpoint, and `srp_data` with them:

    tokenizer, reflection   what all shards of the run share
    end_of_document         its `id` and `token` too; None if unknown
    shards                  a record of each (`data_record.describe_shards`)
    earlier                 the same for data that it was trained on before, each `until` an iteration

Megatron silently loads a vocabulary of another size, as far as the two overlap. Imports neither torch nor
Megatron.
"""

import argparse
from pathlib import Path
from typing import Any

from megatron_srp.errors import UsageError
from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks import data_record
from megatron_srp.training.checks import end_of_document as eod
from megatron_srp.training.checks.checkpoint_format import SRP_DATA
from megatron_srp.training.checks.sidecars import match_sidecars

_OF_THE_FORM = ("open", "close", "tokens")


def describe_data(args: argparse.Namespace) -> dict[str, Any]:
    """The tokenizer's fingerprint, the token that ends documents, how reflections are written (each None if unknown),
    and the shards.

    Raises:
        UsageError: when shards of a run write reflections in different ways, or end documents with different tokens.
    """
    from megatron_srp.data.shards.sidecar import read_header

    prefixes = shards.shard_prefixes(args)
    manifests = {prefix: manifest for prefix in prefixes if (manifest := shards.find_manifest(prefix))}
    sidecars = match_sidecars(args.srp_sidecar or [], prefixes)
    headers = {path: read_header(path)["info"] for path in sidecars.values()}
    tokenizers = {path: info["training_tokenizer"] for path, info in headers.items()}
    tokenizers |= {prefix: manifest["tokenizer"] for prefix, manifest in manifests.items()}
    forms = {path: info["reflection"] for path, info in headers.items()}
    forms |= {prefix: (m.get("sft") or m).get("reflection") for prefix, m in manifests.items()}
    written = [(path, form) for path, form in forms.items() if form]
    for path, form in written[1:]:
        if differs(form, written[0][1]):
            raise UsageError(
                f"{written[0][0]} writes reflections as {_show(written[0][1])}, {path} as {_show(form)}: "
                "train on shards that write them in one way"
            )
    return {
        "tokenizer": next(iter(tokenizers.values()))["fingerprint"] if tokenizers else _fingerprint_of(args),
        "end_of_document": eod.end_of_document(tokenizers),
        "reflection": written[0][1] if written else None,
        "shards": data_record.describe_shards(args),
    }


def record_data(args: argparse.Namespace) -> None:
    """Put `describe_data` into the arguments, which the run's checkpoints keep."""
    args.srp_data = describe_data(args) | {"earlier": []}
    args.srp_data_version = SRP_DATA


def differs(form: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Whether two forms (as `ReflectionFormat.describe` returns them) write different tokens around a verdict."""
    return bool(form and other) and any(form.get(key) != other.get(key) for key in _OF_THE_FORM)  # type: ignore[union-attr]


def check_lineage(where: str, saved: argparse.Namespace, args: argparse.Namespace) -> None:
    """Refuse to train a model on shards of another tokenizer or end-of-document token, or with reflections written in
    another way.

    Args:
        where: the checkpoint, for the message.
        saved: the arguments it holds.
        args: this run's, with `srp_data`.
    """
    was, now = getattr(saved, "srp_data", None) or {}, args.srp_data
    tokenizer = was.get("tokenizer") or _fingerprint_of(saved)
    data, command, tokenizer_advice, form_advice = _SFT_WORDS if args.srp_sft else _PRETRAINING_WORDS
    if tokenizer and now["tokenizer"] and tokenizer != now["tokenizer"]:
        raise UsageError(
            f"{where} was trained with the tokenizer {getattr(saved, 'tokenizer_model', '')} (fingerprint "
            f"{tokenizer[:12]}), the {data} are written with {now['tokenizer'][:12]}. {tokenizer_advice}"
        )
    eod.check_same(where, eod.recorded_in(was), eod.recorded_in(now), data, command)
    if differs(was.get("reflection"), now["reflection"]):
        raise UsageError(
            f"{where} was trained on reflections written as {_show(was['reflection'])}, the {data} write "
            f"{_show(now['reflection'])}. {form_advice}"
        )


# What the data are called, what makes them, and what to do about another tokenizer or another form.
_SFT_WORDS = (
    "conversations",
    "srp sft",
    "Build them with that tokenizer (`srp sft --tokenizer-model`); `srp import --tokenizer-model` adds tokens to a "
    "model",
    "Build them as in pretraining (`srp sft --reflection-tokens`)",
)
_PRETRAINING_WORDS = (
    "shards",
    "srp preprocess",
    "Pass shards of that tokenizer, or start from scratch in another --save folder",
    "Pass shards that write them so (`srp preprocess --reflection-tokens`), or start from scratch in another --save "
    "folder",
)


def _show(form: dict[str, Any]) -> str:
    return f"{form['open']} ... {form['close']} in {form['tokens']} tokens"


def _fingerprint_of(saved: argparse.Namespace) -> str | None:
    """Fingerprint of the tokenizer that a checkpoint names, if it still exists."""
    from megatron_srp.tokenization import tokenizer_fingerprint

    kind, model = getattr(saved, "tokenizer_type", None), getattr(saved, "tokenizer_model", None)
    if kind not in ("HuggingFaceTokenizer", "SentencePieceTokenizer") or not model or not Path(model).exists():
        return None
    return tokenizer_fingerprint(kind, model)
