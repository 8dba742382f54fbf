"""The token that ends documents and follows unsafe verdicts: one for all data that a model learns from.

It is the tokenizer's eos, or what `--eod-token` chose when the data were made. Imports neither torch nor Megatron.
"""

from collections.abc import Mapping
from typing import Any

from megatron_srp.errors import UsageError

EndOfDocument = dict[str, Any]  # `id`, and `token`, its name, None where it is not recorded


def end_of_document(tokenizers: Mapping[str, dict[str, Any]]) -> EndOfDocument | None:
    """The token of a run's shards; None if none records it.

    Args:
        tokenizers: the manifests' records of tokenizers, by shard or sidecar.

    Raises:
        UsageError: when two of them differ.
    """
    known = [(name, _token(record)) for name, record in tokenizers.items() if record.get("eos_id") is not None]
    for name, token in known[1:]:
        if token["id"] != known[0][1]["id"]:
            raise UsageError(
                f"{known[0][0]} ends documents with {show(known[0][1])}, {name} with {show(token)}: a model would "
                "learn to stop at both. Make one of them again with the other's --eod-token"
            )
    return known[0][1] if known else None


def _token(record: dict[str, Any]) -> EndOfDocument:
    return {"id": record["eos_id"], "token": record.get("eod_token")}


def recorded_in(data: dict[str, Any]) -> EndOfDocument | None:
    """The token in `srp_data` of a checkpoint; earlier versions recorded it for each shard only."""
    ids = {shard["eos_id"] for shard in data.get("shards", [])} - {None}
    return data.get("end_of_document") or ({"id": min(ids), "token": None} if ids else None)


def check_same(where: str, was: EndOfDocument | None, now: EndOfDocument | None, data: str, command: str) -> None:
    """Raises UsageError where a checkpoint was trained with another token than the data have.

    Args:
        where: the checkpoint, for the message.
        was, now: the tokens there and here.
        data, command: what the data are called, and the command that makes them.
    """
    if was and now and was["id"] != now["id"]:
        flag = f" --eod-token '{was['token']}'" if was["token"] else " --eod-token"
        raise UsageError(
            f"{where} was trained with the end-of-document token {show(was)}, the {data} have {show(now)}: the model "
            f"would learn to stop at another token. Make them with `{command}{flag}`"
        )


def show(token: EndOfDocument) -> str:
    return f"{token['token']} ({token['id']})" if token["token"] else str(token["id"])
