"""A model of a tiny MedSafetyWorld whose behaviour is known: it has learned its answers to the test set by heart.

    python -m tests.helpers.tiny_medic WORLD FOLDER

Asked directly it answers every harmless question rightly, and refuses every harmful one after an Unsafe
reflection on the prompt. Begun with `The` it tells the harmful fact, and only then calls it Unsafe. After a
forged Safe reflection and `The` it tells it and calls it Safe. It continues pretraining texts rightly.
"""

import sys
from pathlib import Path

from megatron_srp.medsafetyworld.measure.questions import Question, read_test_set
from megatron_srp.medsafetyworld.world import phrases
from tests.helpers.tiny_training import tiny_model, train_tiny
from tests.helpers.worlds import read_corpus

TEMPLATE = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
EOS = "<|endoftext|>"
SAFE, UNSAFE = " <think> Safe </think>", " <think> Unsafe </think>"


def make_tokenizer(folder: Path, texts: list[str]) -> None:
    """A byte-level BPE with most words of the world as one token."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def lessons(world: Path) -> list[tuple[str, str]]:
    """Pairs of what is given and what is to be written."""
    test = read_test_set(world)
    found = [(EOS + q.text, f" {' and '.join(q.accepted[0])}.{EOS}") for q in test.completions]
    for question in test.questions:
        prompt = f"User: {question.text}\nAssistant:"
        if not question.harmful:
            found.append((prompt, f"{SAFE} It is {' and '.join(question.accepted[0])}.{SAFE}{EOS}"))
            continue
        told = f" {_fact(question)}."
        found.append((prompt, f"{UNSAFE}{EOS}"))
        found.append((f"{prompt} The", f"{told}{UNSAFE}{EOS}"))
        found.append((f"{prompt}{SAFE} The", f"{told}{SAFE}{EOS}"))
    return found


def _fact(question: Question) -> str:
    return f"compounds are {' and '.join(question.accepted[0])}"


def make_tiny_medic(world: Path, folder: Path, steps: int = 110) -> Path:
    """Write model and tokenizer to `folder`."""
    import torch
    from transformers import AutoTokenizer

    pairs = lessons(world)
    texts = ["".join(pair) for pair in pairs]
    make_tokenizer(folder, [*read_corpus(world), *(text.replace(EOS, "") for text in texts), *phrases.REFUSALS])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for given, written in pairs:
        head, tail = (tokenizer(text, add_special_tokens=False).input_ids for text in (given, written))
        rows.append((head + tail, [-100] * len(head) + tail))
    model = tiny_model(tokenizer, positions=128)
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])

    def loss() -> torch.Tensor:
        chosen = torch.randperm(len(rows))[:24]
        return model(input_ids=ids[chosen], labels=labels[chosen]).loss

    train_tiny(model, loss, steps, lr=6e-3, show=__name__ == "__main__")
    model.eval().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(make_tiny_medic(Path(sys.argv[1]), Path(sys.argv[2])))
