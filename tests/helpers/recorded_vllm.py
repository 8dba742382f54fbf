"""vLLM's recorded API: calls that the record does not allow are refused as Python would refuse them."""

import json
from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RECORD = json.loads((Path(__file__).parents[1] / "golden" / "vllm-0.33.0.json").read_text())
API = RECORD["api"]


def signature(name: str) -> Signature:
    """The recorded signature of a call; for a class of fields, that of its constructor."""
    kind: Any
    kind, found = Parameter.POSITIONAL_OR_KEYWORD, []
    for text in API[name]:
        if text == "*":
            kind = Parameter.KEYWORD_ONLY
        elif text.startswith("**"):
            found.append(Parameter(text[2:], Parameter.VAR_KEYWORD))
        else:
            default = None if text.endswith("=") else Parameter.empty
            found.append(Parameter(text.removesuffix("="), kind, default=default))
    return Signature(found)


def record(name: str, **given) -> SimpleNamespace:
    """An object with the recorded fields and no others."""
    bound = signature(name).bind(**given)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)
