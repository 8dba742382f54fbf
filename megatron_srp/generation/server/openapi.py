"""The description of the API for programs, /openapi.json, and for people, /docs."""

from typing import Any

import jinja2
import msgspec

from megatron_srp import __version__
from megatron_srp.generation.server.api import ChatRequest, TextRequest
from megatron_srp.generation.server.moderations import ModerationRequest
from megatron_srp.generation.server.tokenizing import TokenizeRequest

_BODIES = {
    "/v1/chat/completions": (ChatRequest, "A guarded answer to a conversation"),
    "/v1/completions": (TextRequest, "A guarded continuation of a text; only with --completions"),
    "/v1/moderations": (ModerationRequest, "The model's verdict on a text or a conversation"),
    "/tokenize": (TokenizeRequest, "The tokens that the model would read"),
}
_READS = {
    "/v1/models": "The model",
    "/metrics": "For Prometheus",
    "/health": "Whether the process lives",
    "/ready": "Whether requests are accepted",
}
_ERRORS = ("400", "401", "403", "404", "408", "413", "429", "500", "503")
_PAGE = """<!doctype html><meta charset="utf-8"><title>{{ info.title }}</title>
<style>body { font: 16px sans-serif; max-width: 60em; margin: 2em auto } pre { background: #eee; padding: 1em }</style>
<h1>{{ info.title }} {{ info.version }}</h1><p>As JSON: <a href="openapi.json">openapi.json</a></p>
{% for path, ways in paths.items() %}{% for way, what in ways.items() %}
<h2>{{ way | upper }} {{ path }}</h2><p>{{ what.summary }}</p>
{% if what.requestBody %}<pre>{{ schema_of(what) | tojson(indent=2) }}</pre>{% endif %}
{% endfor %}{% endfor %}"""


def openapi() -> dict[str, Any]:
    """The description, in OpenAPI 3.1."""
    kinds = [kind for kind, _ in _BODIES.values()]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    error = {"description": "An error in OpenAI's form"}
    answers = {"200": {"description": "The answer"}, **dict.fromkeys(_ERRORS, error)}
    paths: dict[str, Any] = {path: {"get": {"summary": text, "responses": answers}} for path, text in _READS.items()}
    for (path, (_, text)), schema in zip(_BODIES.items(), schemas, strict=True):
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[path] = {"post": {"summary": text, "requestBody": body, "responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "megatron-srp", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def page() -> str:
    """The same as HTML, with nothing to load from elsewhere."""
    described = openapi()
    schemas = described["components"]["schemas"]

    def schema_of(what: dict[str, Any]) -> Any:
        reference = what["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        return schemas[reference.rpartition("/")[2]]

    return jinja2.Environment(autoescape=True).from_string(_PAGE).render(described, schema_of=schema_of)
