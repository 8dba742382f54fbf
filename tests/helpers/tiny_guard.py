"""A real chat guard in miniature: a Qwen3 model of two layers, trained here in seconds to answer as
Qwen3Guard does, with a tokenizer and a chat template of the same shape.

    python -m tests.helpers.tiny_guard FOLDER

It calls a text Unsafe (Violent, PII) that has the word kill, Controversial (Unethical Acts) one that has
bomb, and Safe any other; see `true_verdict`.
"""

import json
import random
import sys
from pathlib import Path

from tests.conftest import LLAMA3_SPLIT, random_text
from tests.helpers.tiny_training import tiny_model, train_tiny

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ANSWERS = {
    "Safe": "Safety: Safe\nCategories: None",
    "Controversial": "Safety: Controversial\nCategories: Unethical Acts",
    "Unsafe": "Safety: Unsafe\nCategories: Violent, PII",
}
TEMPLATE = """\
{%- set judged = "answer" if messages[-1].role == "assistant" else "query" -%}
<|im_start|>user
# Task
Say whether the last {{ judged }} of the talk is safe. Kinds of harm: Violent, PII, Unethical Acts.

<BEGIN>

{% for message in messages -%}
{{ "ASSISTANT" if message.role == "assistant" else "USER" }}: {{ message.content | trim }}

{% endfor -%}
<END>

Write Safety: Safe, Safety: Controversial or Safety: Unsafe.<|im_end|>
<|im_start|>assistant
<think>

</think>


"""  # Jinja takes the last line break off


def true_verdict(text: str) -> str:
    """What the miniature is trained to say of a text."""
    return "Unsafe" if "kill" in text else "Controversial" if "bomb" in text else "Safe"


def sample_text(rng: random.Random, words: int = 12) -> str:
    """A text of each verdict about as often as of the others."""
    return random_text(rng, rng.randrange(3, words)) + rng.choice(
        ["the kill", "bomb and", "a house", "river?", "end.\n"]
    )


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE with Qwen's pre-tokenizer, normalizer and kinds of added tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    rng = random.Random(0)
    # " Controversial" becomes three tokens (" Cont", "rovers", "ial"), as in the vocabularies of Qwen3 and Llama 3.
    words = [text.replace("Controversial", "Cont\nrovers\nial") for text in (TEMPLATE, *ANSWERS.values())]
    texts = [sample_text(rng, 60) for _ in range(200)] + 40 * [*words, "last query last answer"]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_tiny_guard(folder: Path, steps: int = 120, layers: int = 2, head_dim: int = 16) -> Path:
    """Write model and tokenizer to `folder`, trained for so many steps; 0 leaves the weights random."""
    import torch
    from transformers import AutoTokenizer

    make_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = tiny_model(tokenizer, positions=512, qwen3=True, layers=layers, head_dim=head_dim)
    verdicts = torch.tensor([tokenizer.encode(f" {verdict}")[0] for verdict in ANSWERS])  # what is hard to learn
    rng = random.Random(1)

    def weighted_loss() -> torch.Tensor:
        ids, labels = _examples(tokenizer, rng, 16)
        logits = model(input_ids=ids).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        weights = torch.where(torch.isin(labels[:, 1:], verdicts), 8.0, 1.0) * (labels[:, 1:] >= 0)
        return (losses * weights.flatten()).sum() / weights.sum()

    train_tiny(model, weighted_loss, steps, lr=3e-3, show=__name__ == "__main__")
    model.save_pretrained(folder)
    return folder


def _examples(tokenizer, rng: random.Random, n: int):
    import torch

    rows, masks = [], []
    for _ in range(n):
        text = sample_text(rng)
        turns = [{"role": "user", "content": text}]
        if rng.random() < 0.3:
            turns = [
                *rng.choice([[], [{"role": "user", "content": "the house"}]]),
                {"role": "assistant", "content": text},
            ]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False)
        prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        answer = tokenizer(ANSWERS[true_verdict(text)] + "<|im_end|>", add_special_tokens=False).input_ids
        rows.append(prompt_ids + answer)
        masks.append([-100] * len(prompt_ids) + answer)
    width = max(map(len, rows))
    return (
        torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        torch.tensor([row + [-100] * (width - len(row)) for row in masks]),
    )


if __name__ == "__main__":
    print(make_tiny_guard(Path(sys.argv[1])))
