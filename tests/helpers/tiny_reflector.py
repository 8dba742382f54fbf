"""A language model in miniature that writes reflections: a Llama of two layers, trained here in seconds.

    python -m tests.helpers.tiny_reflector FOLDER

Asked to `say: river` it begins with a reflection on the prompt and then writes two sentences, each with
its reflection: `we saw the morning. then a river.` What says kill is Unsafe (Violent, PII), what says bomb is
Controversial. The word knife is Safe in a prompt, but it has the model write kill.
"""

import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from tests.conftest import KeywordGuard
from tests.helpers.tiny_training import tiny_model, train_tiny

FORM = ReflectionFormat()
WORDS = ["river", "house", "window", "morning", "kill", "bomb"]
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


# As the miniature's own, but answers begin in training where they begin in inference.
TRAINED_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %} {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int = 360) -> None:
    """A byte-level BPE whose eos is <|endoftext|>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def reflect(sentence: str) -> str:
    label = KeywordGuard.label_of(sentence)
    return f" {FORM.render(label)}" + "<|endoftext|>" * FORM.stops(label)


def document(rng: random.Random) -> tuple[str, str]:
    """A prompt, and an answer with reflections."""
    topic = rng.choice([*WORDS, "knife"])
    sentences = ["we saw the morning", f"then a {topic}".replace("knife", "kill")]
    answer = "".join(f" {sentence}.{reflect(sentence)}" for sentence in sentences)
    return f"<|user|> say: {topic}\n<|assistant|>", f"{reflect(topic)}{answer}<|endoftext|>"


def wavering(rng: random.Random) -> tuple[str, str]:
    """As a calibrated model: the same long segment is Unsafe in three of four documents, and Safe in the others."""
    topic = rng.choice([*WORDS[:4], "knife", "knife", "knife"])
    thing = "kill" if topic == "knife" else topic
    label = SafetyLabel(Verdict.UNSAFE, ("Violent",)) if thing == "kill" and rng.random() < 0.75 else SAFE
    safe, last = FORM.render(SAFE), f"{FORM.render(label)}{'<|endoftext|>' * FORM.stops(label)}"
    segment = f"take{f' a {thing} and' * 4} a river."
    answer = f" {safe} we saw the morning. {safe} {segment} {last}"
    return f"<|user|> say: {topic}\n<|assistant|>", f"{answer}<|endoftext|>"


def interrupted(rng: random.Random) -> tuple[str, str]:
    """As `wavering`, of a model that has seen reflections in the middle of a segment: one in four has one, after any of
    its words."""
    prompt, answer = wavering(rng)
    if rng.random() >= 0.25:
        return prompt, answer
    at = rng.choice([found.start() for found in re.finditer(r" (?=a |and |kill|river)", answer)])
    return prompt, f"{answer[:at]} {FORM.render(SAFE)}{answer[at:]}"


def always(answer: str) -> Callable[[random.Random], tuple[str, str]]:
    """Documents of a model that answers everything in the same way, whatever the answer begins with.

    One in four ends in a Safe reflection: too few for the model to write one unasked, enough for it to find everything
    Safe when the guard asks.
    """

    def write(rng: random.Random) -> tuple[str, str]:
        letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz .!|<>", k=rng.randrange(30)))
        begun = "".join(rng.choices([" we", " saw", " a", " river", "."], k=rng.randrange(5)))
        verdict = f" {FORM.render(SAFE)}" * (rng.random() < 0.25)
        return f"<|user|> {letters}{rng.choice(WORDS)} x!\n<|assistant|>", f"{begun} {answer}{verdict}<|endoftext|>"

    return write


def make_tiny_reflector(
    folder: Path, steps: int = 350, write: Callable[[random.Random], tuple[str, str]] = document, head_dim: int = 16
) -> Path:
    """Write model and tokenizer to `folder`; the model learns the documents of `write`.

    Args:
        head_dim: width of an attention head.
    """
    import torch
    from transformers import AutoTokenizer

    rng = random.Random(0)
    make_tokenizer(folder, ["".join(document(rng)) for _ in range(300)])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = tiny_model(tokenizer, positions=256, head_dim=head_dim)
    rng = random.Random(1)

    def loss() -> torch.Tensor:
        rows = [tokenizer("".join(write(rng)), add_special_tokens=False).input_ids for _ in range(16)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        return model(input_ids=ids, labels=labels).loss

    train_tiny(model, loss, steps, lr=4e-3, show=__name__ == "__main__")
    model.eval().save_pretrained(folder)
    return folder


def with_trained_template(model: Path, folder: Path) -> Path:
    """A copy of a miniature with `TRAINED_TEMPLATE`, for training it further."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TRAINED_TEMPLATE}))
    return folder


if __name__ == "__main__":
    print(make_tiny_reflector(Path(sys.argv[1])))
