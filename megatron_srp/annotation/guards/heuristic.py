"""The built-in guard: a small lexicon of rare words and of patterns around them.

It is for tests that need fixed answers, not for training real models: it matches words without understanding
them, so it flags a history of the slave trade and misses a threat in unusual words. For real models,
use a real classifier (the paper's is Qwen3Guard-Gen-0.6B).

For speed it works in two stages, both on RE2, which takes time linear in the text. All trigger words
of the lexicon are one pattern that runs over a whole Arrow array of segments, outside Python and without
the GIL. Only the few segments with a trigger are normalised and matched against all
patterns of the lexicon at once.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import re2
import yaml

from megatron_srp.annotation.base import Guard, StringArray
from megatron_srp.schema import SAFE, SafetyLabel, Verdict

LEXICON = Path(__file__).with_name("heuristic_lexicon.yaml")
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")  # {person}, but not the repetition {3}
_RE2_MEMORY = 64 << 20  # bytes for the automaton of all patterns, which needs more than the default


@dataclass(frozen=True, slots=True)
class Category:
    """One category of harm: the trigger words, and the pattern of each verdict."""

    name: str
    triggers: tuple[str, ...]
    unsafe: str
    controversial: str


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
                _between_words(entry["unsafe"], sets),
                _between_words(entry["controversial"], sets),
            )
            for name, entry in tree["categories"].items()
        ]
        return cls(tuple(categories), hashlib.sha256(data).hexdigest()[:12])


def fill_sets(pattern: str, sets: dict[str, str]) -> str:
    """`pattern` with the names of sets in braces replaced by the sets."""
    return _PLACEHOLDER.sub(lambda m: sets[m[1]].replace("| ", "|"), pattern)


def _between_words(lines: str, sets: dict[str, str]) -> str:
    """One pattern for all lines, from word boundary to word boundary."""
    return rf"\b(?:{fill_sets('|'.join(lines.splitlines()), sets)})\b"


class HeuristicGuard(Guard):
    """Classifies by a lexicon, deterministically. For demos and tests, not for training real models.

    A label's verdict is the worst of any category; its categories are those with that verdict,
    in the lexicon's order.
    """

    name = "heuristic"

    def __init__(self) -> None:
        lexicon = _default_lexicon()
        self.revision = lexicon.revision
        self._names = [category.name for category in lexicon.categories]
        triggers = sorted({t for c in lexicon.categories for t in c.triggers})
        self._any_trigger = rf"\b(?:{'|'.join(triggers)})".replace(" ", r"\s+")
        self._patterns = _pattern_set(
            [c.unsafe for c in lexicon.categories] + [c.controversial for c in lexicon.categories]
        )

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return self.classify_array(pa.array(texts, type=pa.large_string()))

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        labels = [SAFE] * len(texts)
        found = pc.indices_nonzero(pc.match_substring_regex(texts, self._any_trigger, ignore_case=True))
        for i, text in zip(found.to_pylist(), pc.take(texts, found).to_pylist(), strict=True):
            labels[i] = self._label(text)
        return labels

    def _label(self, text: str) -> SafetyLabel:
        matches = sorted(self._patterns.Match(" ".join(text.lower().split())) or ())
        if not matches:
            return SAFE
        n = len(self._names)  # the patterns for Unsafe come first, then those for Controversial
        if matches[0] < n:
            return SafetyLabel(Verdict.UNSAFE, tuple(self._names[i] for i in matches if i < n))
        return SafetyLabel(Verdict.CONTROVERSIAL, tuple(self._names[i - n] for i in matches))


def _pattern_set(patterns: Sequence[str]) -> "re2.Set":
    """All patterns as one automaton, whose `Match(text)` lists the numbers of those found in the text."""
    options = re2.Options()
    options.max_mem = _RE2_MEMORY
    found = re2.Set.SearchSet(options)
    for pattern in patterns:
        found.Add(pattern)
    found.Compile()
    return found


@cache
def _default_lexicon() -> Lexicon:
    return Lexicon.load()
