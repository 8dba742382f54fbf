"""The description of a chat guard, a language model that answers with a verdict: a YAML file, no code.

name: my-guard
model: folder or hub name of the weights
template: a Jinja chat template                        # default: the tokenizer's own; {{ policy }} in it: the text of
                                                       # the file that --guard-option policy=FILE names
generation_prompt: false                               # whether the template is asked for one
modes:                                                 # the conversation that is classified
  prompt: [{role: user, content: "{text}"}]            # {text}: the segment
  response:                                            # {user}: --guard-user-turn, a turn left out without it
    - {role: user, content: "{user}"}
    - {role: assistant, content: "{text}"}
answer: "Safety:"                                      # how every answer begins
verdicts: {" Safe": Safe, " Unsafe": Unsafe}           # what may follow
verdict_pattern: 'Safety: (Safe|Unsafe)'               # finds them in a whole answer
category_lead: "\\nCategories:"                         # what is between verdict and categories
category_pattern: 'Categories: (.*)'                   # a list with commas, after the verdict
categories: {Violent: Violent}                         # what the guard writes: the category's name ("S1: Violent"
                                                       # and "Violent" are S1 too)
max_new_tokens: 64                                     # of an answer that names all categories
min_mass: 0.5                                          # least probability of all verdicts together
"""

import hashlib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.schema import Verdict

_DEFAULTS: dict[str, Any] = {
    "template": None,
    "generation_prompt": False,
    "category_lead": "",
    "category_pattern": "",
    "categories": {},
    "max_new_tokens": 64,
    "min_mass": 0.5,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A guard's answer: verdict (None where it has none) and categories; `unknown`: names missing from the spec."""

    verdict: Verdict | None
    categories: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardSpec:
    """A chat guard; the module's docstring explains the fields. `revision` is a hash of the file."""

    name: str
    model: str
    modes: dict[str, list[dict[str, str]]]
    answer: str
    verdicts: dict[str, Verdict]
    verdict_pattern: re.Pattern[str]
    template: str | None
    generation_prompt: bool
    category_lead: str
    category_pattern: re.Pattern[str]
    categories: dict[str, str]
    max_new_tokens: int
    min_mass: float
    revision: str

    @classmethod
    def load(cls, path: Path) -> "GuardSpec":
        """Raises UsageError when the file does not exist, or is not such a description."""
        try:
            data = path.read_bytes()
            tree = yaml.safe_load(data)
        except OSError as error:
            raise UsageError(f"--guard {path}: {error.strerror}; pass the YAML file of a guard") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"--guard {path}: not valid YAML ({' '.join(str(error).split())})") from None
        try:
            return cls(**_checked(tree), revision=hashlib.sha256(data).hexdigest()[:12])
        except (UsageError, TypeError, AttributeError, ValueError, re.error) as error:
            raise UsageError(f"--guard {path}: {error}; annotation/guards/guard_spec.py shows the form") from None

    @property
    def needs_policy(self) -> bool:
        """Whether the template has a place for a policy of the user's own."""
        return re.search(r"\{\{-?\s*policy\b", self.template or "") is not None

    def conversation(self, mode: str | None, user_turn: str | None, text: str) -> list[dict[str, str]]:
        """The turns that are classified; raises UsageError for a mode this guard does not have."""
        mode = mode or next(iter(self.modes))
        if mode not in self.modes:
            raise UsageError(
                f"--guard-mode {mode!r}: guard {self.name} has no such mode; {did_you_mean(mode, list(self.modes))}"
            )
        turns = [turn for turn in self.modes[mode] if user_turn is not None or "{user}" not in turn["content"]]
        if user_turn is not None and turns == [t for t in turns if "{user}" not in t["content"]]:
            raise UsageError(
                f"--guard-user-turn: in mode {mode!r} guard {self.name} has no place for one; use --guard-mode response"
            )
        values = {"{text}": text, "{user}": user_turn or ""}
        return [turn | {"content": _fill(turn["content"], values)} for turn in turns]

    def read(self, answer: str) -> Answer:
        """Verdict and categories of a complete answer."""
        found = self.verdict_pattern.search(answer)
        verdict = {text.strip(): v for text, v in self.verdicts.items()}.get(found[1].strip()) if found else None
        if verdict in (None, Verdict.SAFE):
            return Answer(verdict)
        listed = self.category_pattern.search(answer, found.end() if found else 0) if self.categories else None
        names = [name.strip() for name in listed[1].split(",")] if listed else []
        given = [name for name in names if name and name.lower() != "none"]
        found_names = [(name, self._category(name)) for name in given]
        known = dict.fromkeys(category for _, category in found_names if category is not None)
        return Answer(verdict, tuple(known), tuple(name for name, category in found_names if category is None))

    def _category(self, written: str) -> str | None:
        """The category that a guard writes as "S1", "Violent Crimes" or "S1: Violent Crimes"."""
        names = {name.lower(): name for name in self.categories.values()}
        names |= {key.lower(): name for key, name in self.categories.items()}
        whole = written.lower().rstrip(".")
        return names.get(whole) or names.get(whole.partition(":")[0].strip())


def _fill(content: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(?:text|user)\}", lambda m: values[m[0]], content)


def _checked(tree: Any) -> dict[str, Any]:
    """The file's fields with defaults filled in; raises UsageError naming what is wrong."""
    if not isinstance(tree, dict):
        raise UsageError("not a mapping of fields")
    known = [f.name for f in fields(GuardSpec) if f.name != "revision"]
    for key in tree:
        if key not in known:
            raise UsageError(f"unknown field {key!r}; {did_you_mean(str(key), known)}")
    tree = _DEFAULTS | tree
    missing = [name for name in known if name not in tree]
    if missing:
        raise UsageError(f"no {', '.join(missing)}")
    for mode, turns in tree["modes"].items():
        if sum(str(turn["content"]).count("{text}") for turn in turns) != 1:
            raise UsageError(f"mode {mode!r} must have {{text}} once")
    tree["verdicts"] = {str(text): Verdict.from_name(name) for text, name in tree["verdicts"].items()}
    if Verdict.SAFE not in tree["verdicts"].values() or len(set(tree["verdicts"].values())) < 2:
        raise UsageError("verdicts must have Safe and another verdict")
    for name in ("verdict_pattern", "category_pattern"):
        tree[name] = re.compile(tree[name])
        if tree[name].pattern and tree[name].groups != 1:
            raise UsageError(f"{name} must have one group in brackets, the {name.partition('_')[0]}")
    return tree
