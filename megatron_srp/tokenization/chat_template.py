"""The chat template in a tokenizer's folder, rendered as transformers does, without importing transformers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from megatron_srp.errors import UsageError
from megatron_srp.tokenization.base import TextTokenizer
from megatron_srp.tokenization.huggingface import HuggingFaceTextTokenizer, read_config

TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class JinjaTemplate:
    """A chat template.

    Attributes:
        folder: the tokenizer's folder, for messages.
        source: the template's text.
        variables: names of special tokens, such as `bos_token`, and their text.
        added_tokens: ids of the tokens that the tokenizer has in addition to its vocabulary, by text.
        special_tokens: those of them that no text can become.
        encode: the ids of a rendered conversation, as inference encodes it: special tokens are recognized.
    """

    folder: Path
    source: str
    variables: dict[str, str]
    added_tokens: dict[str, int]
    special_tokens: tuple[str, ...]
    encode: Callable[[str], list[int]]

    def render(self, messages: list[dict[str, Any]], generation_prompt: bool) -> str:
        """The text of a conversation; raises UsageError with the template's reason if it refuses."""
        import jinja2

        given = {"messages": messages, "tools": None, "documents": None} | self.variables  # as transformers passes them
        try:
            return _compile(self.source).render(**given, add_generation_prompt=generation_prompt)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UsageError(
                f"the chat template of {self.folder} refuses the turns {roles} ({error}); pass --chat-template plain"
            ) from None


@cache
def _compile(source: str) -> Any:
    """The template in an environment like transformers' own."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what an assistant wrote, and changes no text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(source)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def read_chat_template(tokenizer: TextTokenizer) -> JinjaTemplate | None:
    """The template of a Hugging Face tokenizer, None if it has none."""
    if not isinstance(tokenizer, HuggingFaceTextTokenizer):
        return None
    config = read_config(tokenizer.model)
    source = config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
    file = tokenizer.model / TEMPLATE_FILE
    if file.is_file():
        source = file.read_text(encoding="utf-8")
    if not source:
        return None
    variables = {key: _content(value) for key, value in config.items() if key.endswith("_token") and value}
    added = [token for token in tokenizer.added_tokens if token["content"].strip()]
    return JinjaTemplate(
        tokenizer.model,
        source,
        {key: text for key, text in variables.items() if text is not None},
        {token["content"]: token["id"] for token in added},
        tuple(token["content"] for token in added if token["special"]),
        tokenizer.encode_marked,
    )


def _content(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
