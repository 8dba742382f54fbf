"""Pages that are made from the code when the site is built: every command's help, and the picture of the layers."""

import argparse
import os
import runpy
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from megatron_srp.cli import COMMANDS, load

ROOT = Path(__file__).parents[1]
WIDTH, ROW, GAP = 760, 34, 6  # of the picture, in pixels


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page: put in what its marks ask for."""
    for mark, make in (("<!-- commands -->", describe_commands), ("<!-- layers -->", draw_layers)):
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def describe_commands() -> str:
    """A section for each command, with its help."""
    os.environ["COLUMNS"] = "100"  # what argparse wraps at
    sections, group = [], ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            sections.append(f"## {group.capitalize()}")
        for path, parser in parsers(name):
            sections.append(f"### {path}\n\n```text\n{parser.format_help().rstrip()}\n```")
    return "\n\n".join(sections)


def parsers(name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of a command, or those of the commands that it groups."""
    module = load(COMMANDS[name])
    grouped = getattr(module, "COMMANDS", COMMANDS)
    if grouped is COMMANDS:
        yield f"srp {name}", module.build_parser()
        return
    for inner, command in grouped.items():
        yield f"srp {name} {inner}", load(command).build_parser()


def draw_layers() -> str:
    """The layers of tests/unit/test_layers.py as SVG, the highest on top."""
    layers = runpy.run_path(str(ROOT / "tests" / "unit" / "test_layers.py"))["LAYERS"]
    height = len(layers) * (ROW + GAP)
    boxes = []
    for row, names in enumerate(reversed(layers)):
        y, shade = row * (ROW + GAP), 88 - row * 4
        width = (WIDTH - GAP * (len(names) - 1)) / len(names)
        for column, name in enumerate(names):
            x = column * (width + GAP)
            boxes.append(
                f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{ROW}" rx="4" fill="hsl(174 38% {shade}%)"/>'
                f'<text x="{x + width / 2:.0f}" y="{y + 22}" text-anchor="middle">{escape(name)}</text>'
            )
    style = "font: 14px monospace; max-width: 100%; fill: #111"
    return f'<svg viewBox="0 0 {WIDTH} {height}" style="{style}" role="img" aria-label="Layers">{"".join(boxes)}</svg>'
