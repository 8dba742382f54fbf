"""Tokenizers, texts and guards that the tests make themselves; nothing is downloaded."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from megatron_srp.annotation.base import Guard
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from megatron_srp.training.process.extensions import hide_broken_engine

WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "in",
    "that",
    "river",
    "house",
    "window",
    "kill",
    "bomb",
    "morning",
    "evening",
    "she",
    "he",
    "they",
    "wrote",
    "walked",
    "looked",
    "said",
    "quietly",
    "across",
    "under",
    "1848",
    "3.14",
    "Dr.",
    "Smith",
    "e.g.",
    "café",
    "naïve",
    "日本",
    "über",
    "½",
    "don't",
    "“quoted”",
    "(aside)",
    "end",
]
ENDINGS = [". ", ".\n", "!\n\n", "? ", "; ", ", ", ".\u00a0", "。 ", '." ', " — "]
LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


# `make test` tries the same cases each time, so that it fails for no change but the one at hand;
# `make test-all`, which deselects nothing, tries new ones. No test depends on an idle machine: no deadline.
ANY_SPEED = [HealthCheck.too_slow]
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=ANY_SPEED)
settings.register_profile("new cases", deadline=None, suppress_health_check=ANY_SPEED)


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as make test does: on a busy machine more threads only spin
    hide_broken_engine()  # some tests import Megatron into this process
    settings.load_profile("repeatable" if config.option.markexpr else "new cases")


def random_text(rng: random.Random, words: int) -> str:
    return "".join(rng.choice(WORDS) + (rng.choice(ENDINGS) if rng.random() < 0.2 else " ") for _ in range(words))


def random_texts(seed: int, n: int, most_words: int = 400) -> list[str]:
    rng = random.Random(seed)
    return [random_text(rng, rng.randrange(1, most_words)) for _ in range(n)]


class KeywordGuard(Guard):
    """Unsafe where the text says kill, Controversial where it says bomb, else Safe."""

    name, revision = "keyword", "1"

    def classify(self, texts):
        return [self.label_of(text) for text in texts]

    @staticmethod
    def label_of(text: str) -> SafetyLabel:
        if "kill" in text:
            return SafetyLabel(Verdict.UNSAFE, ("Violent", "PII"))
        return SafetyLabel(Verdict.CONTROVERSIAL, ("Unethical Acts",)) if "bomb" in text else SAFE


@pytest.fixture
def guard() -> KeywordGuard:
    return KeywordGuard()


def _train_byte_level(folder: Path, pre_tokenizer) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(random_texts(0, 200), trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )


def _train_sentencepiece(folder: Path) -> None:
    import sentencepiece

    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in random_texts(0, 100) for line in text.split("\n")),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )


@pytest.fixture(scope="session")
def tokenizer_models(tmp_path_factory) -> dict[str, tuple[str, Path]]:
    """`--tokenizer-type` and `--tokenizer-model` of one tokenizer of each family."""
    from tokenizers import Regex, pre_tokenizers

    root = tmp_path_factory.mktemp("tokenizers")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    families = {
        "gpt2": byte_level,
        "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
        "llama3": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    }
    for name, pre_tokenizer in families.items():
        _train_byte_level(root / name, pre_tokenizer)
    _train_sentencepiece(root / "sentencepiece")
    models = {name: ("HuggingFaceTokenizer", root / name) for name in families}
    return models | {"sentencepiece": ("SentencePieceTokenizer", root / "sentencepiece" / "tokenizer.model")}


@pytest.fixture(params=["gpt2", "smollm2", "llama3", "sentencepiece"])
def any_tokenizer(request, tokenizer_models) -> TextTokenizer:
    return load_tokenizer(*tokenizer_models[request.param])


@pytest.fixture
def tokenizer(tokenizer_models) -> TextTokenizer:
    return load_tokenizer(*tokenizer_models["gpt2"])


@pytest.fixture
def write_jsonl(tmp_path):
    """Writes texts as a JSONL file under `tmp_path` and returns its path."""

    def write(texts: list[str], name: str = "corpus.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
        return path

    return write


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`made_once(NAME, make)` is a folder that `make` fills in one of xdist's workers, and the others read."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make_or_wait(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        done = shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return make_or_wait


@pytest.fixture(scope="session")
def tiny_guard(made_once) -> Path:
    """Folder of a trained chat guard in miniature, for the engines (about ten seconds, once)."""
    from tests.helpers.tiny_guard import make_tiny_guard

    return made_once("tiny-guard", make_tiny_guard)


@pytest.fixture(scope="session")
def tiny_reflector(made_once) -> Path:
    """Folder of a language model in miniature that writes reflections (some ten seconds, once)."""
    from tests.helpers.tiny_reflector import make_tiny_reflector

    return made_once("tiny-reflector", make_tiny_reflector)


@pytest.fixture(scope="session")
def tiny_answerers(made_once, tiny_reflector) -> dict[str, Path]:
    """Folders of models in miniature with known behaviour: one refuses, one complies, one reflects."""
    from tests.helpers.tiny_reflector import always, make_tiny_reflector

    answers = {"refuses": "I cannot help.", "complies": "then a kill."}
    made = {
        name: made_once(f"tiny-{name}", lambda folder, answer=answer: make_tiny_reflector(folder, 80, always(answer)))
        for name, answer in answers.items()
    }
    return made | {"reflects": tiny_reflector}
