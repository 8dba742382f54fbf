"""Requests made up from the server's own description of its fields, some of them with a wrong value somewhere."""

from typing import Any

from hypothesis import strategies as st

# Short texts of what matters to a guard, and any others.
WORDS = st.sampled_from(
    ["say: knife", " kill", "<think>", " Safe </think>", "<|endoftext|>", "<|assistant|>", "‮", "\x00"]
)
TEXTS = st.lists(WORDS | st.text(max_size=4), max_size=4).map("".join)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
# So that most requests are answered, and none for long.
USUAL = {"model": st.just("tiny"), "max_tokens": st.integers(1, 40), "n": st.integers(1, 2), "stream": st.just(False)}


def requests(described: dict[str, Any], path: str) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of POSTs to that path."""
    schemas = described["components"]["schemas"]
    reference = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    good = _object(schemas[reference.rpartition("/")[2]], schemas, USUAL)
    spoiled = st.dictionaries(
        st.sampled_from(["guard", "stop", "messages", "prompt", "logprobs", "x"]), ANYTHING, max_size=1
    )
    return st.builds(dict.__or__, good, st.just({}) | spoiled)


def _object(
    schema: dict[str, Any], schemas: dict[str, Any], usual: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    fields = {n: usual[n] if n in usual else _value(one, schemas) for n, one in schema["properties"].items()}
    required = schema.get("required", [])
    optional = {name: value for name, value in fields.items() if name not in required}
    return st.fixed_dictionaries({name: fields[name] for name in required}, optional=optional)


def _value(schema: dict[str, Any], schemas: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema allows."""
    if "$ref" in schema:
        return _object(schemas[schema["$ref"].rpartition("/")[2]], schemas, {})
    if "anyOf" in schema:
        return st.one_of([_value(one, schemas) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    low, high = schema.get("minimum"), schema.get("maximum")
    match schema.get("type"):
        case "array":
            return st.lists(_value(schema["items"], schemas), min_size=schema.get("minItems", 0), max_size=3)
        case "integer":
            return st.integers(low, high)
        case "number":
            return st.floats(low or schema.get("exclusiveMinimum", 0), high, exclude_min=low is None)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string":
            return TEXTS
        case kind:
            raise AssertionError(f"{kind}: a kind of field that is not attacked yet")
