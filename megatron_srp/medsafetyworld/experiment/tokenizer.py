"""The world's tokenizer: one token for each name and each word, so that a tiny model need not learn spelling.

A byte-level BPE without merges: a piece of text that is in the vocabulary is one token, and any other falls back to its
bytes. So every text has ids, and `check_coverage` makes sure that the world's own texts need no bytes.
A reflection's mark is three tokens, `<`, `think` and `>`, as in a tokenizer of real text, so that the paper's
prefix `<Safe>` ends as a mark does.
A model is asked `<|user|>question<|assistant|>`; these two are special tokens.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError
from megatron_srp.files import write_json
from megatron_srp.medsafetyworld.world import phrases
from megatron_srp.medsafetyworld.world.entities import Entities
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import Verdict
from megatron_srp.whole_folder import whole_folder

EOS, USER, ASSISTANT = "<|endoftext|>", "<|user|>", "<|assistant|>"
SPECIAL = (EOS, USER, ASSISTANT)
CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}<|assistant|> {{ message['content'] }}<|endoftext|>"
    "{%- else -%}<|user|>{{ message['content'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
_SAMPLED = 2000  # corpus texts that are checked
_WORD = re.compile(r"[A-Za-z]+")
_MARK = re.compile(r" ?</?|[A-Za-z]+")
_SLOT = re.compile(r"\{\w+\}")


def write_tokenizer(entities: Entities, folder: Path) -> None:
    """Write tokenizer.json and its configuration into `folder`, whole or not at all: one for all settings."""
    spaced = [*entities.mediators, *entities.outcomes]
    spec = _specification([*_words(), *(f" {name}" for name in [*entities.compounds, *spaced])], _pattern(spaced))
    with whole_folder(folder, True, CONFIG) as new:
        write_json(new / "tokenizer.json", spec)
        write_json(new / CONFIG, _configuration())


def check_coverage(tokenizer: Path, world: Path) -> None:
    """Make sure that every word of the sets, and of a sample of the corpus, is a token.

    Raises:
        InputError: with the first word that is not a token: the world was made by another version of the grammar.
    """
    spec = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    pattern = re.compile(spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])
    vocabulary = spec["model"]["vocab"]
    for text in _texts(world):
        for piece in pattern.findall(text):
            if len(piece) > 1 and _byte_level(piece) not in vocabulary:
                raise InputError(
                    f"{world}: the world's tokenizer has no token for {piece!r} in {text!r}; make world and tokenizer "
                    f"with the same version of this package"
                )


def _texts(world: Path) -> Iterator[str]:
    for path in sorted(world.glob("corpus/*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for _, line in zip(range(_SAMPLED), file, strict=False):
                yield json.loads(line)["text"]
    for path in sorted(world.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if "prompt" in record:
                yield record["prompt"]
            for message in record.get("messages", []):
                # An answer follows a space, as `sft.encode` writes it.
                yield f" {message['content']}" if message["role"] == "assistant" else message["content"]


def _words() -> list[str]:
    """All words of the grammar and of reflections as they occur in a text: after a space, and, where one can
    begin a text, without."""
    form = ReflectionFormat()
    strings = [part for name, value in vars(phrases).items() if name.isupper() for part in _strings(value)]
    strings += Verdict
    words = dict.fromkeys(word for text in strings for word in _WORD.findall(_SLOT.sub(" ", text)))
    firsts = [word for word in words if word[0].isupper()] + [w.capitalize() for w in _first_words()]
    return [*dict.fromkeys([*firsts, *_MARK.findall(f" {form.open} {form.close}"), *(f" {word}" for word in words)])]


def _first_words() -> Iterator[str]:
    """First words of questions, which are capitalised at the beginning of a text."""
    return (question.split(" ", 1)[0] for questions in phrases.QUESTIONS.values() for question in questions)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _pattern(names: Iterable[str]) -> str:
    """What a piece is: an angle bracket, a name of several words, a word, or any other single character."""
    firsts, rests = (set(part) for part in zip(*(name.split(" ", 1) for name in names), strict=True))
    longest_first = [sorted(part, key=lambda text: (-len(text), text)) for part in (firsts, rests)]
    name = " ".join(f"(?:{'|'.join(map(re.escape, part))})" for part in longest_first)
    return rf" ?</?| ?{name}(?![A-Za-z])| ?[A-Za-z]+|[^A-Za-z]"


def _byte_level(piece: str) -> str:
    return piece.replace(" ", "\u0120")  # the pieces are ASCII, of which only the space is written differently


def _specification(pieces: list[str], pattern: str) -> dict[str, Any]:
    """A tokenizer.json. Ids: the 256 bytes, then `pieces`, then special tokens."""
    from tokenizers import pre_tokenizers

    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*characters, *map(_byte_level, pieces)]))}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": len(vocabulary) + i, "content": token, **flags} for i, token in enumerate(SPECIAL)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "ignore_merges": True},
    }


def _configuration() -> dict[str, Any]:
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "chat_template": CHAT_TEMPLATE}
