"""A guard with a real vocabulary and random weights, whose head alone is fitted: it gives answers of the right
form, and which verdict it gives depends on the text."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

_SIZE = 128
_SURE = 60.0  # a logit that wins against all tokens that no answer has, and which have 0


def make_random_guard(
    folder: Path, tokenizer_folder: Path, template: str, answer_to: Callable[[str], str], texts: list[str]
) -> Path:
    """Write model and tokenizer to `folder`.

    Args:
        template: chat template of the guard.
        answer_to: what the guard should say of a text; a linear head on random features learns it in part.
        texts: to fit the head to.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=_SIZE,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=16,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        _fit_head(model, *_hidden_states(model, tokenizer, answer_to, texts))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _hidden_states(model, tokenizer, answer_to, texts: list[str]) -> tuple[torch.Tensor, ...]:
    """[T, H] before each token of the answers, and [T] these tokens and how much each matters."""
    hidden, tokens, weights = [], [], []
    for text in texts:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        answer = answer_to(text)
        ids = tokenizer(prompt + answer + tokenizer.eos_token, add_special_tokens=False).input_ids
        opening = prompt + re.match(r"\s*.*", answer)[0]  # the line of the verdict and its end matter most
        verdict = len(tokenizer(opening, add_special_tokens=False).input_ids)
        hidden.append(model.model(torch.tensor([ids])).last_hidden_state[0, start - 1 : -1])
        tokens.append(torch.tensor(ids[start:]))
        weights.append(torch.where(torch.arange(start, len(ids)) <= verdict, 30.0, 1.0))
    return torch.cat(hidden), torch.cat(tokens), torch.cat(weights)


def _fit_head(model, hidden: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor) -> None:
    """Weighted least squares, to 1 for the token that comes and 0 for the others."""
    known, numbers = tokens.unique(return_inverse=True)
    weighted = hidden.T * weights
    wanted = torch.nn.functional.one_hot(numbers).float()
    head = torch.linalg.solve(weighted @ hidden + 0.1 * torch.eye(_SIZE), weighted @ wanted)
    model.lm_head.weight.zero_()
    model.lm_head.weight[known] = _SURE * head.T
