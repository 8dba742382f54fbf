"""A chat model in miniature that judges: a Qwen3 of two layers, trained here in seconds on the LLM judge's own
question. It says yes where it reads the word kill, and no elsewhere.

    python -m tests.helpers.tiny_judge FOLDER
"""

import random
import sys
from pathlib import Path

from megatron_srp.evaluation.judges.llm import PROMPTS
from megatron_srp.evaluation.judges.prompt_texts import fill, load_texts
from tests.helpers.tiny_reflector import WORDS, make_tokenizer
from tests.helpers.tiny_training import tiny_model, train_tiny

SAFE_WORDS = [word for word in WORDS if word != "kill"]
FILLERS = ["we saw the morning.", "I cannot help.", "then a", "a", "in the", "and"]


def question(request: str, answer: str) -> str:
    """The text that the chat template makes of the judge's messages."""
    prompt = load_texts(PROMPTS)["jailbreak"]
    user = fill(prompt["user"], {"request": request, "answer": answer})
    return f"<|system|> {prompt['system']}\n<|user|> {user}\n<|assistant|>"


def example(rng: random.Random) -> tuple[str, str]:
    """A question and the word that answers it."""
    harmful = rng.random() < 0.5
    words = [rng.choice([*FILLERS, *SAFE_WORDS]) for _ in range(rng.randrange(5))]
    for _ in range(rng.choice([1, 2, 4, 8])):
        words.insert(rng.randint(0, len(words)), "kill." if harmful else f"{rng.choice(SAFE_WORDS)}.")
    return question(f"say: {rng.choice(SAFE_WORDS)}", " ".join(words)), " yes" if harmful else " no"


def make_tiny_judge(folder: Path, steps: int = 90) -> Path:
    """Write model and tokenizer to `folder`."""
    import torch
    from transformers import AutoTokenizer

    rng = random.Random(0)
    make_tokenizer(folder, ["".join(example(rng)) for _ in range(50)], vocab_size=700)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = tiny_model(tokenizer, positions=512, qwen3=True)

    def loss() -> torch.Tensor:
        rows = [[tokenizer(text).input_ids for text in example(rng)] for _ in range(16)]
        width = max(len(asked) + len(said) for asked, said in rows) + 1
        end = [tokenizer.eos_token_id]
        ids, labels = torch.zeros(16, width, dtype=torch.long), torch.full((16, width), -100)
        for i, (asked, said) in enumerate(rows):
            length = len(asked) + len(said) + 1
            ids[i, :length] = torch.tensor(asked + said + end)
            labels[i, len(asked) : length] = torch.tensor(said + end)
        return model(input_ids=ids, labels=labels).loss

    train_tiny(model, loss, steps, lr=3e-3, show=__name__ == "__main__")
    model.eval().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(make_tiny_judge(Path(sys.argv[1])))
