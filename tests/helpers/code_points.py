"""Text around single characters, for comparing a tokenizer's two implementations on all of Unicode."""

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.tokenization import TextTokenizer
from megatron_srp.tokenization.fast import FastEncoder

_TOGETHER = 2_000


def text_around(c: str) -> str:
    """Next to letters, digits, spaces, apostrophes, punctuation, line breaks and marks, and repeated."""
    return f"a{c}b {c}c 1{c}2 {c}{c}'s .{c}\n{c} e{c}\u0301 y'{c}e A{c}\u0323 {c}\u0334 e\u0345{c}"


def differing(tokenizer: TextTokenizer, points: list[int]) -> list[int]:
    """The code points around which the fast encoder gives other ids than the reference."""
    encoder, found = FastEncoder(tokenizer), []
    assert encoder.reason is None
    for begin in range(0, len(points), _TOGETHER):
        part = points[begin : begin + _TOGETHER]
        texts = [text_around(chr(c)) for c in part]
        tokens, expected = encoder.encode_batch(TextBatch.from_texts(texts)), tokenizer.encode_lists(texts)
        found += [c for i, c in enumerate(part) if tokens[i].tolist() != expected[i]]
    return found
