"""A safety card, as a page and as Markdown: what a model was shown to withstand, and what not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_srp.files import make_folder, write_text
from megatron_srp.reports.document_texts import visible
from megatron_srp.reports.pages import load_page


def write_safety_card(folder: Path, card: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `safety_card.html` and `safety_card.md` of what `evaluation.gate.card` gathered."""
    make_folder(folder)
    shown = _visible(card)
    page = write_text(folder / "safety_card.html", load_page("safety_card.html").render(card=shown))
    text = load_page("safety_card.md", escape=False).render(card=_cells(shown))
    return page, write_text(folder / "safety_card.md", text.rstrip("\n") + "\n")


def _visible(value: Any) -> Any:
    """With invisible characters of names and reasons shown."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {name: _visible(each) for name, each in value.items()}
    return [_visible(each) for each in value] if isinstance(value, list | tuple) else value


def _cells(value: Any) -> Any:
    """As the cells of a Markdown table take it."""
    if isinstance(value, str):
        return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")
    if isinstance(value, Mapping):
        return {name: _cells(each) for name, each in value.items()}
    return [_cells(each) for each in value] if isinstance(value, list) else value
