"""How a model writes reflections, by what its checkpoint recorded of its data (`training.checks.lineage`)."""

from typing import Any

from megatron_srp.model_description import ModelDescription
from megatron_srp.reflection import ReflectionFormat


def describe_trained(srp_data: dict[str, Any] | None) -> ModelDescription | None:
    """The description of a model trained on these data, first to last; None where nothing is recorded.

    The newest data with reflections decide how they are written. A hint, or an end-of-text after a verdict, that it has
    learned from any data may still come.
    """
    if not srp_data:
        return None
    stages = [*srp_data.get("earlier", []), srp_data]
    shards = [shard for stage in stages for shard in stage.get("shards", [])]
    forms = [form for record in [*stages, *shards] if (form := record.get("reflection"))]
    newest = next((stage["reflection"] for stage in reversed(stages) if stage.get("reflection")), None)
    newest = newest or (forms[-1] if forms else None)
    if not newest and not any(shard.get("tokenizer") for shard in shards):  # without manifests: unknown, not none
        return None
    return ModelDescription(
        _merged(newest, forms) if newest else None,
        _last(stages, shards, "max_words"),
        _last(stages, shards, "eos_id"),
    )


def as_trained(description: ModelDescription, eod_token: str | None = None) -> dict[str, Any]:
    """The inverse: what a checkpoint made of a described model records, as one stage of training.

    Args:
        eod_token: the name of `description.eod_id`.
    """
    form = description.form.describe() if description.form else None
    end = None if description.eod_id is None else {"id": description.eod_id, "token": eod_token}
    own = {"reflection": form, "max_words": description.max_words, "eos_id": description.eod_id}
    return own | {"end_of_document": end}


def _merged(newest: dict[str, Any], forms: list[dict[str, Any]]) -> ReflectionFormat:
    stops = sorted({verdict for form in forms for verdict in form["stop_after"]})
    hints = any(form.get("hints", False) for form in forms)
    return ReflectionFormat.from_description({**newest, "stop_after": stops, "hints": hints})


def _last(stages: list[dict[str, Any]], shards: list[dict[str, Any]], name: str) -> int | None:
    values = (record.get(name) for record in [*reversed(shards), *reversed(stages)])
    return next((value for value in values if value is not None), None)
