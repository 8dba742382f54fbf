"""How a genetic search changes texts: initial prototypes, and how words and sentences are replaced.

Works offline with a table of words for the built-in prototypes. Users with other prototypes can supply other
synonyms, or a language model as the rewriter: any function of a text and a source of random numbers.
"""

import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from megatron_srp.errors import InputError

SLOT = "{request}"
Rewriter = Callable[[str, random.Random], str]
Synonyms = Callable[[str], Sequence[str]]
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\{request\}")
_SENTENCE = re.compile(r"(?<=[.!?:])\s+")
_SHARE = 0.3  # of the known words, how many a rewrite replaces
# Each line: words that can replace one another in the prototypes.
_GROUPS = """
imagine suppose pretend assume
write compose draft create produce
answer reply response
answers replies responses
full complete whole entire
exact precise accurate
detail depth
curious eager keen
question query
student pupil learner
professor teacher scholar
scene act episode
play drama story
begin start open
beginning starting opening
long extensive lengthy
book manual handbook
readers users people
direct clear plain
warning notice caution
apology excuse regret
explains describes shows
task job matter
entry article section
test trial exam
instruction order command
instructions orders commands
rules limits policies
wish will desire
good proper strong
team group circle
researchers scientists scholars
study examine analyse
dangerous risky hazardous
example sample instance
realistic credible believable
detector filter classifier
protect guard shield
help assist support
game exercise role-play
careful cautious timid
free open bold
tells reveals shares
translator interpreter linguist
duty job task
document paper text
bad harmful ugly
meaning sense content
please kindly
"""


@cache
def _table() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for line in _GROUPS.split("\n"):
        words = line.split()
        for word in words:
            others = (other for other in words if other != word)
            table[word] = tuple(dict.fromkeys((*table.get(word, ()), *others)))
    return table


def synonyms(word: str) -> Sequence[str]:
    """Words of the built-in table that can replace a lower-case word."""
    return _table().get(word, ())


def reword(text: str, rng: random.Random) -> str:
    """The default rewriter: some words replaced by others of the table."""
    return replace_words(text, lambda word: rng.choice((word, *synonyms(word))) if rng.random() < _SHARE else word)


def replace_words(text: str, choose: Callable[[str], str]) -> str:
    """The text with each word replaced by what `choose` returns for it in lower case; capitals and the slot stay."""

    def exchange(match: re.Match[str]) -> str:
        word = match[0]
        if word == SLOT or (chosen := choose(word.lower())) == word.lower():
            return word
        return chosen.capitalize() if word[0].isupper() else chosen

    return _WORD.sub(exchange, text)


def words(text: str) -> set[str]:
    """Its words, in lower case."""
    return {word.lower() for word in _WORD.findall(text) if word != SLOT}


def cross(one: str, other: str, points: int, rng: random.Random) -> tuple[str, str]:
    """Two texts that exchange their sentences between every second of `points` cuts; each keeps one slot."""
    a, b = _SENTENCE.split(one), _SENTENCE.split(other)
    shorter = min(len(a), len(b))
    cuts = sorted(rng.sample(range(1, shorter), min(points, shorter - 1))) if shorter > 1 else []
    for begin, end in zip(cuts[::2], [*cuts[1::2], None], strict=False):
        a[begin:end], b[begin:end] = b[begin:end], a[begin:end]
    return _with_one_slot(" ".join(a)), _with_one_slot(" ".join(b))


def _with_one_slot(text: str) -> str:
    first, slot, rest = text.partition(SLOT)
    return f"{first}{slot}{rest.replace(SLOT, '')}" if slot else f"{text} {SLOT}"


def read_prototypes(path: str = "") -> list[str]:
    """Prompts with the slot {request}, separated by blank lines; those written for this project by default.

    Raises:
        InputError: for a file without prompts, or one whose prompt has no slot, or several.
    """
    text = Path(path).read_text(encoding="utf-8") if path else (files(__package__) / "prototypes.txt").read_text()
    prompts = [" ".join(part.split("\n")).strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if not prompts:
        raise InputError(f"{path}: no prototypes; pass prompts with {SLOT} in each, a blank line between them")
    for number, prompt in enumerate(prompts, 1):
        if prompt.count(SLOT) != 1:
            raise InputError(f"{path}: prototype {number} has {SLOT} {prompt.count(SLOT)} times; it must be there once")
    return prompts
