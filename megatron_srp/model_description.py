"""`srp.json`, next to a model's config.json: how the model writes reflections.

`srp export` writes it from what the checkpoint recorded of its data; whatever guards the model reads it, so that there
is no flag to forget.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import write_json
from megatron_srp.reflection import ReflectionFormat

FILE = "srp.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a model's folder says about its training.

    Attributes:
        form: how it writes reflections; None if it was trained without any.
        max_words: maximum words between two of them in training, if known.
        eod_id: the token that ended its documents, if known.
    """

    form: ReflectionFormat | None
    max_words: int | None = None
    eod_id: int | None = None

    def write(self, folder: Path) -> None:
        """Write `srp.json` into `folder`."""
        content = {
            "format_version": FORMAT_VERSION,
            "reflection": self.form.describe() if self.form else None,
            "max_words": self.max_words,
            "eod_id": self.eod_id,
        }
        write_json(folder / FILE, content)

    @classmethod
    def read(cls, path: Path) -> "ModelDescription":
        """Raises InputError for a file that is damaged or of another version."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            version, form = found["format_version"], found["reflection"]
            if version != FORMAT_VERSION:
                raise InputError(f"{path}: format_version {version!r}; this release reads {FORMAT_VERSION}")
            words, eod = found.get("max_words"), found.get("eod_id")
            if not all(value is None or type(value) is int for value in (words, eod)):
                raise ValueError("max_words and eod_id are numbers or null")
            return cls(ReflectionFormat.from_description(form) if form else None, words, eod)
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise InputError(f"{path}: not a description of a model ({error}); export the model again") from None


def describe_model(folder: str) -> ModelDescription | None:
    """The description of a model folder, or of a name on the hub; None where there is none."""
    path = find_in_model(folder, FILE)
    return ModelDescription.read(path) if path else None


def find_in_model(folder: str, name: str) -> Path | None:
    """A file of a model folder, or of a name on the hub; None where there is none."""
    if Path(folder).is_dir():
        path = Path(folder) / name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    quiet: dict[str, Any] = {
        f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo", "connection_errors")
    }
    found = cached_file(folder, name, **quiet)
    return Path(found) if found else None


def choose_form(model: str, description: ModelDescription | None, tokens: str | None) -> tuple[ReflectionFormat, str]:
    """How a model writes reflections, and one line about what is assumed, empty where the model says it.

    Args:
        tokens: the value of --reflection-tokens, "text" or "special"; None where it is not given.

    Raises:
        UsageError: when the flag contradicts the model.
    """
    if description is None or description.form is None:
        form = ReflectionFormat(special_tokens=tokens == "special")
        why = "was trained without reflections, so its verdicts may mean nothing" if description else f"has no {FILE}"
        return form, f"{model} {why}; assuming {_in_words(form)}"
    form = description.form
    own = "special" if form.special_tokens else "text"
    if tokens not in (None, own):
        raise UsageError(f"--reflection-tokens {tokens}: {model} was trained with {own} ({FILE}); leave the flag out")
    return form, ""


def _in_words(form: ReflectionFormat) -> str:
    tokens = "special tokens" if form.special_tokens else "plain text"
    return f"{form.open} as {tokens}, no hints, end-of-text after {' and '.join(sorted(form.stop_after))}"
