"""Pages that are made from the code when the site is built: every command's flags, and the picture of the layers."""

import argparse
import re
import runpy
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from megatron_srp.cli import COMMANDS, load

ROOT = Path(__file__).parents[1]
WIDTH, ROW, GAP = 760, 34, 6  # of the picture, in pixels
LETTERS = 88  # of the names in a row


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this for each page: replace the mark of the commands by their sections."""
    return markdown.replace("<!-- commands -->", describe_commands())


def on_page_content(html: str, **_: Any) -> str:
    """mkdocs calls this for each page, as HTML: replace the mark of the picture, in which Markdown must not look."""
    return html.replace("<!-- layers -->", draw_layers())


def describe_commands() -> str:
    """A section for each command; headings are Markdown, for the table of contents, and the rest is HTML."""
    sections, group = [], ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            sections.append(f"## {group.capitalize()}")
        for path, parser in parsers(name):
            sections.append(f"### {path}\n\n<div>{describe(parser)}</div>")
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


def describe(parser: argparse.ArgumentParser) -> str:
    """Description, a table of flags for each group, and what the help ends with."""
    formatter = argparse.HelpFormatter(parser.prog)
    parts = [paragraphs(parser.description)]
    for group in parser._action_groups:
        rows = "".join(flag_row(action, formatter, parser) for action in group._group_actions if action.dest != "help")
        if rows:
            about = f" <small>{inline(' '.join(group.description.split()))}</small>" if group.description else ""
            parts.append(f"<p><strong>{escape((group.title or '').capitalize())}</strong>{about}</p>")
            parts.append(f"<table><tbody>{rows}</tbody></table>")
    return "".join(parts) + (f"<pre><code>{lines(parser.epilog)}</code></pre>" if parser.epilog else "")


def flag_row(action: argparse.Action, formatter: argparse.HelpFormatter, parser: argparse.ArgumentParser) -> str:
    """A flag with its values, and what it does."""
    names = ", ".join(action.option_strings)
    values = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
    add_default = getattr(parser._get_formatter(), "_get_help_string", None)
    text = (add_default(action) if add_default else action.help) or ""
    shown = text % {**vars(action), "prog": parser.prog}
    flag = f'<code style="white-space: nowrap">{escape(names or values)}</code>'
    values = escape(values).replace(",", ",<wbr>") if names else ""  # long choices take several lines
    return f"<tr><td>{flag}<br><small>{values}</small></td><td>{inline(shown)}</td></tr>"


def inline(text: str) -> str:
    """Text as HTML, with its `code`."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def paragraphs(text: str | None) -> str:
    """Paragraphs as HTML, indented ones as code."""
    found = (text or "").split("\n\n")
    return "".join(
        f"<pre><code>{lines(one)}</code></pre>" if one.startswith("  ") else f"<p>{inline(' '.join(one.split()))}</p>"
        for one in found
    )


def lines(text: str) -> str:
    """Text for a code block; a blank line would end the block of HTML in Markdown."""
    return escape(text.strip("\n")).replace("\n", "&#10;")


def draw_layers() -> str:
    """The layers of tests/unit/test_layers.py as SVG, the highest on top."""
    table = runpy.run_path(str(ROOT / "tests" / "unit" / "test_layers.py"))["LAYERS"]
    layers = [[name for name in names if not name.startswith("_")] for names in reversed(table)]
    rows = [(layer, names) for layer, all_names in enumerate(layers) for names in rows_of(all_names)]
    height = len(rows) * (ROW + GAP)
    boxes = []
    for row, (layer, names) in enumerate(rows):
        y, shade = row * (ROW + GAP), 90 - layer * 3
        share = (WIDTH + GAP) / sum(map(len, names))  # a box is as wide as its name is long
        x = 0.0
        for name in names:
            width = share * len(name) - GAP
            boxes.append(
                f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{ROW}" rx="4" fill="hsl(174 38% {shade}%)"/>'
                f'<text x="{x + width / 2:.0f}" y="{y + 22}" text-anchor="middle">{escape(name)}</text>'
            )
            x += width + GAP
    style = "font: 12px monospace; max-width: 100%; fill: #111"
    return f'<svg viewBox="0 0 {WIDTH} {height}" style="{style}" role="img" aria-label="Layers">{"".join(boxes)}</svg>'


def rows_of(names: list[str]) -> list[list[str]]:
    """The names of a layer, in as many rows as they need."""
    rows: list[list[str]] = [[]]
    for name in names:
        if sum(map(len, rows[-1])) + len(name) > LETTERS:
            rows.append([])
        rows[-1].append(name)
    return rows
