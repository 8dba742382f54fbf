"""The tiny models that tests make, and their training."""

from collections.abc import Callable
from typing import Any


def tiny_model(tokenizer: Any, positions: int, qwen3: bool = False, layers: int = 2, head_dim: int = 16) -> Any:
    """A Llama (or Qwen3) of width 64 with the same random weights in every call, for texts of `positions` tokens.

    Args:
        head_dim: width of each of the four attention heads; vLLM on a CPU takes 32 and more.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "head_dim": head_dim,
        "max_position_embeddings": positions,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if qwen3:
        return Qwen3ForCausalLM(Qwen3Config(**sizes, num_key_value_heads=2))
    return LlamaForCausalLM(LlamaConfig(**sizes))


def train_tiny(model: Any, loss: Callable[[], Any], steps: int, lr: float, show: bool = False) -> None:
    """Minimise `loss()` with AdamW: 20 steps of warm-up, and a linear decay over the second half.

    Args:
        show: print the loss now and then.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20, 2 * (1 - step / steps))
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if show and not step % 25:
            print(step, round(value.item(), 4), flush=True)
