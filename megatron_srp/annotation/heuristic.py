"""The guard that comes with the project: a small lexicon of rare words and of patterns around them.

It is for demos and tests, not for training real models: it knows words and not what is meant by
them, so it flags a history of the slave trade and overlooks a threat in unusual words. Use a
real classifier (the paper's is Qwen3Guard-Gen-0.6B) for a model that matters.

Speed is why it works in two stages. All trigger words of the lexicon are one pattern, which RE2 runs
over a whole Arrow array of segments without Python and without the interpreter's lock. Only the few
segments with a trigger are then looked at, for the categories whose triggers they have, with
Python's `re`.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from megatron_srp.annotation.base import SafetyClassifier, StringArray
from megatron_srp.schema import SAFE, SafetyLabel, Verdict

LEXICON = Path(__file__).with_name("heuristic_lexicon.yaml")
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")  # {person}, but not the repetition {3}
_HEAD = re.compile(r"\b[a-z]{3}", re.ASCII)
_REACH = 100  # characters on either side of a trigger that are looked at


@dataclass(frozen=True, slots=True)
class Category:
    """One category of harm: the words that call for a look, and the pattern of each verdict."""

    name: str
    triggers: tuple[str, ...]
    unsafe: re.Pattern[str]
    controversial: re.Pattern[str]

    def judge(self, text: str, found: Sequence[str]) -> Verdict:
        """The verdict on a lower-cased text with single spaces in which these triggers were found."""
        first = min(text.find(trigger) for trigger in found) - _REACH
        last = max(text.rfind(trigger) for trigger in found) + _REACH
        # The window opens and closes at a space: it must divide no word.
        window = max(text.rfind(" ", 0, max(first, 0)), 0), text.find(" ", last) % (len(text) + 1)
        if self.unsafe.search(text, *window):
            return Verdict.UNSAFE
        return Verdict.CONTROVERSIAL if self.controversial.search(text, *window) else Verdict.SAFE


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The categories of a lexicon file, in its order, and a short hash of its bytes."""

    categories: tuple[Category, ...]
    revision: str

    @classmethod
    def load(cls, path: Path = LEXICON) -> "Lexicon":
        data = path.read_bytes()
        tree = yaml.safe_load(data)
        sets = tree["sets"]
        categories = [
            Category(
                name,
                tuple(entry["triggers"]),
                _compile(entry["unsafe"], sets),
                _compile(entry["controversial"], sets),
            )
            for name, entry in tree["categories"].items()
        ]
        return cls(tuple(categories), hashlib.sha256(data).hexdigest()[:12])


def fill_sets(pattern: str, sets: dict[str, str]) -> str:
    """`pattern` with the names of sets in braces replaced by the sets."""
    return _PLACEHOLDER.sub(lambda m: sets[m[1]].replace("| ", "|"), pattern)


def _compile(lines: str, sets: dict[str, str]) -> re.Pattern[str]:
    """One pattern for all lines, from word boundary to word boundary."""
    # ASCII, because the \b of RE2, which looks for the triggers, is.
    return re.compile(rf"\b(?:{fill_sets('|'.join(lines.splitlines()), sets)})\b", re.ASCII)


class HeuristicGuard(SafetyClassifier):
    """Labels by a lexicon, deterministically. For demos and tests, not for training real models.

    A label's verdict is the worst that a category gives; its categories are those with that verdict,
    in the lexicon's order.
    """

    name = "heuristic"

    def __init__(self) -> None:
        lexicon = _default_lexicon()
        self.revision = lexicon.revision
        self._categories = lexicon.categories
        triggers = sorted({t for c in lexicon.categories for t in c.triggers})
        self._any_trigger = rf"\b(?:{'|'.join(triggers)})".replace(" ", r"\s+")
        self._by_head: dict[str, list[str]] = {}
        for trigger in triggers:
            self._by_head.setdefault(trigger[:3], []).append(trigger)

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return self.classify_array(pa.array(texts, type=pa.large_string()))

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        labels = [SAFE] * len(texts)
        found = pc.indices_nonzero(pc.match_substring_regex(texts, self._any_trigger, ignore_case=True))
        for i, text in zip(found.to_pylist(), pc.take(texts, found).to_pylist(), strict=True):
            labels[i] = self._judge(text)
        return labels

    def _judge(self, text: str) -> SafetyLabel:
        plain = " ".join(text.lower().split())
        found = self._triggers_in(plain)
        verdicts = {
            c.name: c.judge(plain, [t for t in c.triggers if t in found])
            for c in self._categories
            if not found.isdisjoint(c.triggers)
        }
        for verdict in (Verdict.UNSAFE, Verdict.CONTROVERSIAL):
            categories = tuple(name for name, given in verdicts.items() if given is verdict)
            if categories:
                return SafetyLabel(verdict, categories)
        return SAFE

    def _triggers_in(self, plain: str) -> set[str]:
        # Searching for all of them one by one would take most of the guard's time.
        heads = self._by_head.keys() & set(_HEAD.findall(plain))
        return {trigger for head in heads for trigger in self._by_head[head] if trigger in plain}


@cache
def _default_lexicon() -> Lexicon:
    return Lexicon.load()
