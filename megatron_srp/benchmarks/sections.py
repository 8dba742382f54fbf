"""BENCHMARKS.md, a section at a time: a benchmark replaces its own section and leaves the others."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from megatron_srp.files import write_text
from megatron_srp.machine import describe_machine

TITLE = """# Benchmarks

Each section is written by the command it names, on the machine it names. Ratios are between runs of one
call, side by side; absolute figures belong to that machine on that day.
"""


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's part of BENCHMARKS.md.

    Attributes:
        name: of the section, as `SECTIONS` has it.
        title: its heading.
        command: reproduces it.
        packages: distributions whose versions matter to the figures.
        body: Markdown; the table with the spread, the goals and whether each was met.
        machine: where it was measured; by default this one.
    """

    name: str
    title: str
    command: str
    packages: tuple[str, ...]
    body: str
    machine: str = ""

    def render(self) -> str:
        versions = ", ".join(f"{package} {version(package)}" for package in self.packages)
        facts = f"{datetime.now(UTC):%Y-%m-%d}, {self.machine or describe_machine()}; {versions}."
        return f"## {self.title}\n\n`{self.command}`\n\n{facts}\n\n{self.body.strip()}\n"


def write_section(section: Section, path: str | Path) -> None:
    """Put `section` into the file, replacing the one of that name, or at the end."""
    path = Path(path)
    text = path.read_text(encoding="utf-8") if path.exists() else TITLE
    block = f"<!-- section: {section.name} -->\n{section.render()}<!-- end: {section.name} -->\n"
    pattern = re.compile(f"<!-- section: {section.name} -->\n.*?<!-- end: {section.name} -->\n", re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text}\n{block}"
    write_text(path, text)
