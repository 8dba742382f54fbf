"""A model that never ends a text."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def make_endless(folder: Path, tokenizer: Path) -> Path:
    """A model of random weights that never ends a text."""
    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(tokenizer)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=100_000,
        eos_token_id=words.eos_token_id,
    )
    network = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        network.lm_head.weight[words.eos_token_id] = 0.0
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
