"""Qwen3Guard-Stream in miniature, with random weights: the names of weights and fields are those of its checkpoints."""

import json
from pathlib import Path

from tests.helpers.tiny_guard import make_tokenizer
from tests.helpers.tiny_training import tiny_model

LEVELS = ["Safe", "Unsafe", "Controversial"]
CATEGORIES = ["None", "Violent", "PII"]
INNER = 24
# ChatML, as Qwen3 writes turns without tools and thoughts.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_stream_guard(folder: Path) -> Path:
    """Write model and tokenizer to `folder`."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    make_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    model = tiny_model(AutoTokenizer.from_pretrained(folder), positions=128, qwen3=True)
    weights = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    hidden = model.config.hidden_size
    for role in ("", "query_"):
        weights[f"{role}risk_level_category_pre.weight"] = torch.randn(INNER, hidden)
        weights[f"{role}risk_level_category_layernorm.weight"] = torch.rand(INNER) + 0.5
        weights[f"{role}risk_level_head.weight"] = torch.randn(len(LEVELS), INNER) / 3
        weights[f"{role}category_head.weight"] = torch.randn(len(CATEGORIES), INNER) / 3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    heads = {"guard_inner_size": INNER, "architectures": ["Qwen3ForGuardModel"]}
    heads["auto_map"] = {"AutoModel": "modeling_qwen3_guard.Qwen3ForGuardModel"}  # code that is not run
    for kind, names in (("risk_level", LEVELS), ("category", CATEGORIES)):
        heads |= {f"num_{kind}": len(names), f"num_query_{kind}": len(names)}
        heads |= {f"{side}_{kind}_map": dict(enumerate(names)) for side in ("response", "query")}
    (folder / "config.json").write_text(json.dumps(model.config.to_dict() | heads))
    return folder
