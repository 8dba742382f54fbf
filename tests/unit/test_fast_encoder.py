"""Where gigatoken and the reference differ, the reference's ids are taken."""

import unicodedata

import numpy as np
import pytest

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.tokenization.fast import FastEncoder
from megatron_srp.tokenization.huggingface import _byte_of_character
from megatron_srp.tokenization.unicode_tables import unsettled_characters
from tests.conftest import random_texts
from tests.helpers.changed_tokenizers import CONDITIONS, changed, differences, with_conditional_tokens
from tests.helpers.code_points import differing, text_around

# Characters of Unicode 17, which the reference does not know yet, and marks that its normalizers do not know.
NEW = "\u088f\u0c5c\ua7ce\U00010940\U00011db0\U00016ea0"
MARKS = "\u07fd\u08d3\u0d3b\u1715\u1ac3\u1df6\ua82c"


def joined(spec: dict) -> None:
    """With tokens of a letter, digit, space or full stop and the first byte of another character: the ids then
    show whether the pre-tokenizer cuts between the two."""
    of_byte = {byte: character for character, byte in _byte_of_character().items()}
    pairs = [(first, of_byte[byte]) for first in ("a", "1", "Ġ", ".") for byte in range(0xC2, 0xF5)]
    pairs = [pair for pair in pairs if "".join(pair) not in spec["model"]["vocab"]]
    spec["model"]["merges"] += [list(pair) for pair in pairs]
    free = max(spec["model"]["vocab"].values()) + 1
    spec["model"]["vocab"] |= {first + second: free + i for i, (first, second) in enumerate(pairs)}


def composing(spec: dict) -> None:
    spec["normalizer"] = {"type": "NFC"}
    joined(spec)


@pytest.mark.parametrize("family", ["gpt2", "smollm2", "llama3"])
def test_new_characters_get_the_references_ids(family, tokenizer_models, tmp_path):
    tokenizer = changed(load_tokenizer(*tokenizer_models[family]), tmp_path / "t", joined)
    encoded, alone = differences(tokenizer, [text_around(c) for c in NEW])
    assert not encoded and alone == list(range(len(NEW)))


def test_new_marks_are_put_in_the_references_order(tokenizer, tmp_path):
    texts = [text_around(c) for c in MARKS] + ["\U00011935\U00011930", "e\u0323\u0301"]
    encoded, alone = differences(changed(tokenizer, tmp_path / "t", composing), texts)
    assert not encoded and set(alone) >= set(range(len(MARKS)))


@pytest.mark.parametrize(
    ("family", "change"), [("gpt2", joined), ("smollm2", joined), ("llama3", joined), ("gpt2", composing)]
)
def test_all_settled_characters_get_the_references_ids(family, change, tokenizer_models, tmp_path):
    tokenizer = changed(load_tokenizer(*tokenizer_models[family]), tmp_path / "t", change)
    settled = ~unsettled_characters()
    points = [c for c in range(0x80, 0x20000) if settled[c] and not 0xD800 <= c < 0xF900]
    uniform = ("CJK UNIFIED", "HANGUL SYLLABLE", "TANGUT", "CUNEIFORM", "EGYPTIAN", "ANATOLIAN")
    points = [c for c in points if c % 97 == 0 or not unicodedata.name(chr(c), "").startswith(uniform)]
    assert differing(tokenizer, points) == []


def test_what_people_write_is_settled():
    text = "Ünïcödé naïve ½ ² ٣ Ⅷ 日本語 한국어 हिन्दी עברית العربية ไทย ẹ́ 😀👩‍👩‍👧 ﬁ ① ℃"
    assert not unsettled_characters()[[ord(c) for c in text]].any()


MISSING = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, *range(0xF1, 0x100)]  # as SmolLM2's vocabulary lacks them


def without_bytes(spec: dict) -> None:
    lacking = {character for character, byte in _byte_of_character().items() if byte in MISSING}
    pieces = sorted((id, piece) for piece, id in spec["model"]["vocab"].items() if piece not in lacking)
    spec["model"]["vocab"] = {piece: i for i, (_, piece) in enumerate(pieces)}


@pytest.mark.parametrize("family", ["gpt2", "smollm2"])
def test_a_vocabulary_that_lacks_bytes(family, tokenizer_models, tmp_path):
    tokenizer = changed(load_tokenizer(*tokenizer_models[family]), tmp_path / "t", without_bytes)
    odd = ["a\x04b", "\x06", "x\U00040000y \x1d", "in 1999\x16\n", "\U000f0000"]
    encoded, alone = differences(tokenizer, [*odd, *random_texts(3, 40), ""])
    assert not encoded and set(alone) >= set(range(len(odd)))
    batch = FastEncoder(tokenizer).encode_batch(TextBatch.from_texts(odd))
    assert (batch.tokens < tokenizer.vocab_size).all()


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("normalized", [False, True])
def test_added_tokens_with_a_condition(condition, normalized, tokenizer, tmp_path):
    words = {"unused": condition, "foo": condition} if normalized else {"foo": condition}
    conditional = with_conditional_tokens(tokenizer, tmp_path / "t", words)
    texts = ["food", "a foo b", "foo", "xfoo", "foo.\n  foo", "seafood  foo  bar", "the river", "fo o"]
    encoded, _ = differences(conditional, texts)
    assert not encoded
    encoder = FastEncoder(conditional)
    batch = TextBatch.from_texts(texts)
    taken = encoder._unsettled(batch, encoder._pool.encode(batch))
    assert np.array_equal(taken, range(6))  # documents without it stay with gigatoken
