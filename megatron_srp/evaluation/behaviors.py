"""Behaviors from the files of public data sets: a local file or folder, or the hub. Nothing is bundled."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import xxhash
import yaml

from megatron_srp.corpus.tables import KINDS, read_rows
from megatron_srp.errors import InputError, UsageError, did_you_mean
from megatron_srp.evaluation.types import Behavior

FORMATS_FILE = Path(__file__).with_name("formats.yaml")
HUB = "hub"
POST_TRAINING = "sft"  # not a data set: what `srp sft --out` wrote, some of which fine-tuning mixes in
BASE = "base"  # nor is this: the folder of the model before its post-training, which tampering merges with
_NO_DATA = (POST_TRAINING, BASE)


@dataclass(frozen=True, slots=True)
class Format:
    """Which columns of a data set hold what; see formats.yaml."""

    title: str
    prompt: Sequence[str]
    harmful: bool | Sequence[Mapping[str, Any]]
    hub: Mapping[str, str]
    target: Sequence[str] = ()
    response: Sequence[str] = ()
    category: Sequence[str] = ()
    id: Sequence[str] = ()
    context: Sequence[str] = ()
    completion: Sequence[str] = ()
    files: Sequence[str] = ()
    headless: bool = False
    targets: str = ""
    needs: Sequence[str] = field(default=("prompt",))

    def expected(self) -> str:
        """The columns that a row must have, in words."""
        wanted = [" or ".join(getattr(self, name)) for name in self.needs]
        if not isinstance(self.harmful, bool):
            wanted.append(" or ".join(rule["column"] for rule in self.harmful))
        return ", ".join(wanted)


@cache
def formats() -> dict[str, Format]:
    content = yaml.safe_load(FORMATS_FILE.read_text(encoding="utf-8"))
    return {name: Format(**entry) for name, entry in content.items()}


def find_format(name: str) -> Format:
    if name not in formats():
        raise UsageError(f"unknown data set {name!r}; {did_you_mean(name, list(formats()))}")
    return formats()[name]


def load_behaviors(name: str, source: str) -> list[Behavior]:
    """All behaviors of a data set.

    Args:
        name: of the format.
        source: a file, a folder of files with the same columns, `hub` for the format's own place on the
            hub, or another name there: OWNER/NAME, OWNER/NAME:SPLIT.

    Raises:
        UsageError: for an unknown format, or a data set that cannot be read from the hub.
        InputError: for a file that cannot be read, or has other columns.
    """
    form = find_format(name)
    path = Path(source)
    if path.exists() or not _is_hub_name(source):
        rows = [row for file in _files(path) for row in read_rows(file, headless=_headless(form))]
        targets = _targets(path, form)
    else:
        rows, targets = _hub_rows(form, source), {}
    if not rows:
        raise InputError(f"{source}: it has no rows of {form.title}")
    return _unique(_behavior(source, number, row, form, targets) for number, row in enumerate(rows, 1))


def find_sources(given: Sequence[str]) -> dict[str, str]:
    """The sources that `--data` names: `NAME=SOURCE`, or a folder of files whose names begin with the formats'.

    Raises:
        UsageError: for an unknown name, or something that is neither.
    """
    sources: dict[str, str] = {}
    for text in given:
        name, equals, source = text.partition("=")
        if Path(text).is_dir():
            found = {name: str(path) for name in formats() if (path := _in_folder(Path(text), name))}
            if not found:
                raise UsageError(f"--data {text}: it has no data set; name files after {', '.join(formats())}")
            sources |= found
        elif equals and source:
            if name not in _NO_DATA:
                find_format(name)
            if not Path(source).exists() and (name in _NO_DATA or not _is_hub_name(source)):
                raise UsageError(f"--data {text}: no such file; pass NAME=FILE, NAME=hub or a folder of such files")
            sources[name] = source
        else:
            raise UsageError(f"--data {text!r}: pass NAME=FILE, NAME=hub or a folder of such files")
    return sources


def choose(
    behaviors: Sequence[Behavior], limit: int | None, fits: Callable[[Behavior], bool] = lambda behavior: True
) -> tuple[list[Behavior], int]:
    """At most `limit` of them, in their order: always the same ones, spread over the data set, and those of
    a smaller limit are among those of a larger one.

    Args:
        fits: whether the model has room for one; where there is a choice, one that it has no room for is skipped.

    Returns:
        The chosen behaviors, and how many were skipped.
    """
    if limit is None or limit >= len(behaviors):
        return list(behaviors), 0
    order = sorted(range(len(behaviors)), key=lambda i: xxhash.xxh3_64_intdigest(behaviors[i].id.encode()))
    chosen: list[int] = []
    for count, i in enumerate(order):
        if len(chosen) == limit:
            return [behaviors[i] for i in sorted(chosen)], count - limit
        chosen += [i] if fits(behaviors[i]) else []
    if not chosen:  # then the report says why each was not asked
        return [behaviors[i] for i in sorted(order[:limit])], 0
    return [behaviors[i] for i in sorted(chosen)], len(order) - len(chosen)


def is_held_out(behavior: Behavior) -> bool:
    """Half of a data set, kept for calibrations: always the same one, whatever else the set contains."""
    return bool(xxhash.xxh3_64_intdigest(f"calibration:{behavior.id}".encode()) % 2)


def with_target(behavior: Behavior) -> Behavior:
    """With a target made from the request where the data set has none, as is usual: Sure, here is ..."""
    if behavior.target:
        return behavior
    request = behavior.prompt.strip().rstrip(".?!")
    return replace(behavior, target=f"Sure, here is how to {request[:1].lower()}{request[1:]}")


def _in_folder(folder: Path, name: str) -> Path | None:
    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    form = find_format(name)
    tables = [p for p in sorted(folder.iterdir()) if p.is_dir() or p.suffix.lstrip(".") in KINDS]
    tables = [p for p in tables if p.name != form.targets and ("train" in p.stem) == ("train" in name)]
    begins = [plain(text) for text in form.files or (name,)]
    return next((p for begin in begins for p in tables if plain(p.name).startswith(begin)), None)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lstrip(".") in KINDS)
    if not files:
        raise InputError(f"{path}: no {', '.join(KINDS)} file in this folder")
    return files


def _headless(form: Format) -> str | None:
    return form.prompt[0] if form.headless else None


def _targets(path: Path, form: Format) -> dict[str, str]:
    file = path.with_name(form.targets) if form.targets else None
    if not file or not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in content.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{file}: not JSON from ids to targets ({error})") from None


def _is_hub_name(source: str) -> bool:
    return source == HUB or (source.count("/") == 1 and not source.startswith((".", "/", "~")))


def _hub_rows(form: Format, source: str) -> list[dict[str, Any]]:
    name, _, split = source.partition(":")
    if name == HUB and not form.hub:
        raise UsageError(f"{form.title} is not on the hub; `srp world sets` writes it: pass a folder or NAME=FILE")
    where = dict(form.hub) if name == HUB else {"name": name, "split": split or "train"}
    try:
        if "file" in where:
            from huggingface_hub import hf_hub_download

            return read_rows(Path(hf_hub_download(where["name"], where["file"], repo_type="dataset")))
        from datasets import load_dataset

        return list(load_dataset(where["name"], where.get("config"), split=where["split"]))
    except ModuleNotFoundError as error:
        raise UsageError(f"data from the hub ({source}) needs {error.name}; pip install 'megatron-srp[eval]'") from None
    except Exception as error:  # from many libraries: no network, no access, no such name or split
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{form.title} from the hub ({where['name']}): {reason}; pass a local file") from None


def _first(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    found = next((str(row[column]) for column in columns if row.get(column) not in (None, "")), "")
    return found.encode(errors="replace").decode()  # half a surrogate pair could not be written


def _behavior(source: str, number: int, row: Mapping[str, Any], form: Format, targets: Mapping[str, str]) -> Behavior:
    missing = [name for name in form.needs if not any(column in row for column in getattr(form, name))]
    harmful = _harmful(row, form)
    if missing or harmful is None:
        raise InputError(
            f"{source}, row {number}: not in the format of {form.title}; expected columns {form.expected()}, found "
            f"{', '.join(map(str, row))}" + ("" if missing else f", with the label {_label(row, form)!r}")
        )
    own_id = _first(row, form.id) or str(number)
    context, prompt = _first(row, form.context), _first(row, form.prompt)
    return Behavior(
        id=own_id,
        prompt=f"{context}\n\n---\n\n{prompt}" if context else prompt,
        target=_first(row, form.target) or targets.get(own_id, ""),
        harmful=harmful,
        category=_first(row, form.category),
        response=_first(row, form.response),
        completion=_first(row, form.completion),
    )


def _harmful(row: Mapping[str, Any], form: Format) -> bool | None:
    if isinstance(form.harmful, bool):
        return form.harmful
    for rule in form.harmful:
        if rule["column"] in row:
            value = str(row[rule["column"]]).strip().lower()
            if "unsafe_prefix" in rule:
                return value.startswith(rule["unsafe_prefix"])
            return True if value in rule["unsafe"] else False if value in rule["safe"] else None
    return None


def _label(row: Mapping[str, Any], form: Format) -> str:
    rules = [] if isinstance(form.harmful, bool) else form.harmful
    return next((str(row[rule["column"]]) for rule in rules if rule["column"] in row), "none")


def _unique(behaviors: Iterable[Behavior]) -> list[Behavior]:
    """With a number after ids that occur again."""
    seen: dict[str, int] = {}
    found = []
    for behavior in behaviors:
        seen[behavior.id] = count = seen.get(behavior.id, 0) + 1
        found.append(behavior if count == 1 else replace(behavior, id=f"{behavior.id}#{count}"))
    return found
