"""How a genetic search changes texts: initial prototypes, and how words and sentences are replaced.

Synonyms are those of WordNet, or of a table for the built-in prototypes that works without any data. Users can supply
others, or a language model as the rewriter: any function of a text and a source of random numbers.
"""

import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import yaml

from megatron_srp.errors import InputError, UsageError, did_you_mean
from megatron_srp.evaluation.attack import MissingPackage

SLOT = "{request}"
Rewriter = Callable[[str, random.Random], str]
Synonyms = Callable[[str], Sequence[str]]
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\{request\}")
_SENTENCE = re.compile(r"(?<=[.!?:])\s+")
_SHARE = 0.3  # of the known words, how many a rewrite replaces
SYNONYMS = ("table", "wordnet")
_ORDER = 0  # seed of the order of the built-in prototypes: a small population has some of every kind
# Words that only hold a sentence together: they have no score and are not replaced.
FUNCTION_WORDS = frozenset(
    """a about above after again against all am an and any are as at be because been before being below between both
    but by can could did do does doing down during each few for from further had has have having he her here hers him
    his how i if in into is it its itself just me more most must my myself no nor not now of off on once only or other
    our ours out over own same shall she should since so some such than that the their theirs them then there these
    they this those through to too under until up us very was we were what when where which while who whom why will
    with would you your yours yourself""".split()
)
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
story tale account
mention name state
lie falsehood untruth
strict severe rigid
museum gallery collection
guide lead conduct
staff crew personnel
laboratory workshop institute
realize understand know
everybody everyone all
subject topic theme
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


def find_synonyms(name: str) -> Synonyms:
    """The source of that name: for a lower-case word, those that can replace it.

    Raises:
        UsageError: for an unknown name.
        MissingPackage: when WordNet is not installed.
    """
    if name not in SYNONYMS:
        raise UsageError(f"attack autodan, synonyms {name!r}; {did_you_mean(name, list(SYNONYMS))}")
    if name == "table":
        return lambda word: _table().get(word, ())
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError, OSError):
        raise MissingPackage(
            "attack autodan, synonyms wordnet: pip install nltk, then python -m nltk.downloader wordnet"
        ) from None
    return _of_wordnet


@cache
def _of_wordnet(word: str) -> Sequence[str]:
    """Single words only, in a fixed order; the word itself is left out."""
    from nltk.corpus import wordnet

    found = {lemma.name().lower() for meaning in wordnet.synsets(word) for lemma in meaning.lemmas()}
    return tuple(sorted(name for name in found if name.isalpha() and name != word))


def rewriter(synonyms: Synonyms) -> Rewriter:
    """Replaces some words by others that `synonyms` has."""

    def reword(text: str, rng: random.Random) -> str:
        return replace_words(text, lambda word: rng.choice((word, *synonyms(word))) if rng.random() < _SHARE else word)

    return reword


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
    """Prompts with the slot {request}: of a file, separated by blank lines, or those of prototypes.yaml.

    Raises:
        InputError: for a file without prompts, or one whose prompt has no slot, or several.
    """
    if not path:
        return _built_in()
    text = Path(path).read_text(encoding="utf-8")
    prompts = [" ".join(part.split("\n")).strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if not prompts:
        raise InputError(f"{path}: no prototypes; pass prompts with {SLOT} in each, a blank line between them")
    for number, prompt in enumerate(prompts, 1):
        if prompt.count(SLOT) != 1:
            raise InputError(f"{path}: prototype {number} has {SLOT} {prompt.count(SLOT)} times; it must be there once")
    return prompts


def _built_in() -> list[str]:
    """Every combination of prototypes.yaml, in a fixed order that mixes them, and the short ones."""
    parts = yaml.safe_load((files(__package__) / "prototypes.yaml").read_text(encoding="utf-8"))
    prompts = [" ".join(chosen) for chosen in product(parts["openings"], parts["rules"], parts["endings"])]
    random.Random(_ORDER).shuffle(prompts)
    return [*prompts, *parts["short"]]
