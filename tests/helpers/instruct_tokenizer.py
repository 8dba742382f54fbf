"""A tokenizer as instruct models bring it: its eos ends a turn of the chat, and another token a text."""

import json
from pathlib import Path
from typing import Any

from megatron_srp.tokenization import TextTokenizer, load_tokenizer

EOS, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def instruct_tokenizer(
    base: TextTokenizer, folder: Path, template: str | None = CHATML, eod_token: str | None = None, **config: Any
) -> TextTokenizer:
    """`base` with ChatML's special tokens, a chat template, `<|im_end|>` as eos and `<|endoftext|>` as pad token, as
    Qwen's is; `config` replaces entries of its tokenizer_config.json."""
    spec = json.loads((base.model / "tokenizer.json").read_text())
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for i, content in enumerate((START, END)):
        spec["added_tokens"].append({"id": base.vocab_size + i, "content": content, **special})
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": EOS}
    names |= {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | config))
    return load_tokenizer("HuggingFaceTokenizer", folder, eod_token)
