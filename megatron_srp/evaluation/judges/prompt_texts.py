"""Prompts of judges: YAML files with a version, and placeholders {{name}} in their texts."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_PLACE = re.compile(r"\{\{(\w+)\}\}")


@cache
def load_texts(file: str) -> dict[str, Any]:
    """The content of a file next to this one."""
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(file).read_text(encoding="utf-8"))
    return content


def fill(template: str, words: Mapping[str, str]) -> str:
    """The template with its placeholders filled, all at once: their values are not expanded again."""
    return _PLACE.sub(lambda place: words[place[1]], template)
