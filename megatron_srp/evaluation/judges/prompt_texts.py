"""Prompts of judges: YAML files with a version, and places {{name}} in their texts."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_PLACE = re.compile(r"\{\{(\w+)\}\}")


@cache
def load_texts(file: str) -> dict[str, Any]:
    """The content of a file beside this one."""
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(file).read_text(encoding="utf-8"))
    return content


def fill(template: str, words: Mapping[str, str]) -> str:
    """The template with its places filled, all at once: what stands in them is read no further."""
    return _PLACE.sub(lambda place: words[place[1]], template)
