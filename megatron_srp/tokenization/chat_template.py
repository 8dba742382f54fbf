"""The chat template in a tokenizer's folder, rendered as transformers does, without importing transformers."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from megatron_srp.errors import UsageError
from megatron_srp.tokenization.base import TextTokenizer
from megatron_srp.tokenization.huggingface import read_config


@dataclass(frozen=True, slots=True)
class JinjaTemplate:
    """A chat template.

    Attributes:
        folder: the tokenizer's folder, for messages.
        source: the template's text.
        variables: names of special tokens, such as `bos_token`, and their text.
        added_tokens: ids of the tokens that the tokenizer has in addition to its vocabulary, by text.
    """

    folder: Path
    source: str
    variables: dict[str, str]
    added_tokens: dict[str, int]

    def render(self, messages: list[dict[str, str]], generation_prompt: bool) -> str:
        """The text of a conversation; raises UsageError with the template's reason if it refuses."""
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals |= {"raise_exception": _refuse, "strftime_now": datetime.now().strftime}
        try:
            template = environment.from_string(self.source)
            return template.render(messages=messages, add_generation_prompt=generation_prompt, **self.variables)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UsageError(
                f"the chat template of {self.folder} refuses the turns {roles} ({error}); pass --chat-template plain"
            ) from None


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def read_chat_template(tokenizer: TextTokenizer) -> JinjaTemplate | None:
    """The template of a Hugging Face tokenizer, None if it has none."""
    folder = tokenizer.model
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    config = read_config(folder)
    source = config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        source = beside.read_text(encoding="utf-8")
    if not source:
        return None
    variables = {key: _content(value) for key, value in config.items() if key.endswith("_token") and value}
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in spec.get("added_tokens", []) if token["content"].strip()}
    return JinjaTemplate(folder, source, {k: v for k, v in variables.items() if v is not None}, added)


def _content(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
