"""The ids of real tokenizers are the reference's, on documents and around all code points."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from megatron_srp.corpus.batch import TextBatch, segment_batch
from megatron_srp.corpus.readers import read_batches
from megatron_srp.data.align import align_batch
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from megatron_srp.tokenization.fast import FastEncoder
from tests.conftest import random_texts
from tests.helpers.changed_tokenizers import differences, with_conditional_tokens
from tests.helpers.code_points import differing

NAMES = ("qwen3", "llama3_1", "llama2", "gemma3", "deepseek_v3", "gptoss", "smollm2")
ODD = [
    "a\x04b \x06 \x13\x14\x16\x1d", "\U00040000 \U000f0000", "½ cup, 2² = ٤, 1234567890", "<|im_end|> <think> </s> <bos>",
    "\u088f\u0c5c a\u1ac3\u0334 e\u0323\u0301", "", " ", "\n\n\t  \r\n", "don't WON'T it\u2019s 'ſ", "日本語 한국어 हिन्दी 😀👩‍👩‍👧 ﬁ",
]  # fmt: skip

WORDS = dict.fromkeys(("qix", "foo"), "single_word")
WORDS |= dict.fromkeys(("qax", "qux"), "lstrip") | dict.fromkeys(("qex", "qox"), "rstrip")
CONDITIONAL = [
    "food", "a foo b", "foo", "xfoo", "foo.\n  foo", "seafood  foo  bar", "the river", "fo o", "foofoo foo-foo _foo",
    "It stood by the river.  foo flows. The mill foo.   foo is food. Then it rained.", "\u00e9foo foo\u00e9 \u4e2dfoo",
]  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def real_tokenizer(request, real_data: Path) -> TextTokenizer:
    if request.param == "smollm2":
        return load_tokenizer("HuggingFaceTokenizer", request.getfixturevalue("smollm2_tokenizer"))
    folder = real_data / "tokenizers" / request.param
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return load_tokenizer("HuggingFaceTokenizer", folder)


def corpus_texts(count: int) -> list[str]:
    """The first documents of each file of SRP_CORPUS_DATA, a folder, or made-up ones where it is not set."""
    folder = os.environ.get("SRP_CORPUS_DATA")
    if folder is None:
        return random_texts(7, count)
    files = sorted(path for path in Path(folder).iterdir() if path.name.endswith((".zst", ".gz", ".jsonl", ".parquet")))
    texts = []
    for file in files:
        batch = next(read_batches([file], ["text"], most=count)).texts["text"]
        texts += [batch[i] for i in range(min(len(batch), count))]
    return texts


def test_documents_get_the_references_ids(real_tokenizer):
    texts = [*ODD, *corpus_texts(150)]
    encoder = FastEncoder(real_tokenizer)
    assert encoder.reason is None  # gigatoken takes all seven
    tokens = encoder.encode_batch(TextBatch.from_texts(texts))
    expected = real_tokenizer.encode_lists(texts)
    assert [i for i, ids in enumerate(expected) if tokens[i].tolist() != ids] == []


def test_added_tokens_with_a_condition(real_tokenizer, tmp_path):
    """Their ids are the reference's, and reflections stand at the first token boundary from a segment's end on."""
    conditional = with_conditional_tokens(real_tokenizer, tmp_path / "t", WORDS)
    texts = [text.replace("foo", word) for word in WORDS for text in CONDITIONAL]
    encoded, alone = differences(conditional, texts)
    assert not encoded and alone  # gigatoken by itself ignores the conditions
    batch = TextBatch.from_texts(texts)
    segments = segment_batch(batch, 3)
    cuts = align_batch(batch, segments, FastEncoder(conditional).encode_batch(batch), conditional)
    for i, text in enumerate(texts):
        _, starts = conditional.encode_with_starts(text)
        ends = segments.ends[segments.offsets[i] : segments.offsets[i + 1]] - batch.offsets[i]
        wanted = [sum(start < end for start in starts) for end in ends[:-1]] + [len(starts)]
        assert cuts[segments.offsets[i] : segments.offsets[i + 1]].tolist() == wanted, text


def test_most_documents_are_gigatokens(real_tokenizer):
    """And so as fast as they were: the reference is for the few with odd characters."""
    texts = TextBatch.from_texts(corpus_texts(150))
    encoder = FastEncoder(real_tokenizer)
    numerals = [any(c > "\x7f" and unicodedata.category(c)[0] == "N" for c in texts[i]) for i in range(len(texts))]
    others = ~np.array(numerals) if real_tokenizer.splits_digits else np.ones(len(texts), bool)
    slow = encoder._unsettled(texts, encoder._pool.encode(texts))
    assert others[slow].sum() <= len(texts) // 100


def test_smollm2s_vocabulary_lacks_bytes(smollm2_tokenizer: Path):
    vocab = json.loads((smollm2_tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    tokenizer = load_tokenizer("HuggingFaceTokenizer", smollm2_tokenizer)
    assert len(vocab) == tokenizer.vocab_size == 49_152
    assert len(tokenizer.unsettled_ids()) == 21


@pytest.mark.exhaustive
def test_all_code_points_get_the_references_ids(real_tokenizer):
    """Of the private planes and the unassigned ones, some."""
    points = [*range(0x80, 0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200)]
    points += [*range(0x34000, 0xE0000, 2_003), *range(0xF0000, 0x110000, 97)]
    assert differing(real_tokenizer, points) == []
