"""How turns become tokens: what comes before a response, and what ends it.

A response is tokenised separately from what comes before it, so that there is a token boundary where a model
begins to write: inference gets the same ids from `prompt_ids`. Two forms:

    plain       System: Be brief.\\nUser: How do I bake bread?\\nAssistant: <think> Safe </think> Mix ...EOS
                Later turns follow directly after the EOS.
    tokenizer   The tokenizer's own chat template, rendered around placeholders. Special tokens are recognized
                only where the template has them: a `<|im_end|>` in somebody's text is text.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_srp.errors import UsageError
from megatron_srp.sft.conversation import Turn
from megatron_srp.tokenization import TextTokenizer
from megatron_srp.tokenization.chat_template import JinjaTemplate, read_chat_template

_HOLE = re.compile("\ue000(\\d+)\ue001")
_USE_PLAIN = "pass --chat-template plain"
# The plain form as a chat template for transformers, which exported models carry.
PLAIN_JINJA = Path(__file__).with_name("plain_template.jinja")


@dataclass(frozen=True, slots=True)
class Frame:
    """The tokens around one response.

    Attributes:
        before: ids between the end of the previous response, or the beginning, and this response.
        end: ids that end it and are learned with it.
        spaced: whether `before` ends in white space, so that a text after it needs none.
    """

    before: list[int]
    end: list[int]
    spaced: bool


class ChatTemplate(ABC):
    """Writes conversations with one tokenizer.

    Attributes:
        name: "plain" or "tokenizer".
    """

    name: str

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    @abstractmethod
    def frames(self, turns: Sequence[Turn]) -> list[Frame]:
        """A frame for each response of `turns`."""

    @property
    def end_of_turn(self) -> int:
        """The token that ends an answer; raises UsageError as `frames` does."""
        return self.frames([Turn.of("user", "x"), Turn.of("assistant", "x")])[0].end[-1]

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """The ids that a model continues to answer `turns`, none of which is the assistant's."""
        return self.frames([*turns, Turn.of("assistant", "x")])[0].before


class PlainTemplate(ChatTemplate):
    name = "plain"

    def __init__(self, tokenizer: TextTokenizer) -> None:
        super().__init__(tokenizer)
        self._end = [tokenizer.require_eos()]

    def frames(self, turns: Sequence[Turn]) -> list[Frame]:
        frames: list[Frame] = []
        lines: list[str] = []
        for turn in turns:
            if turn.role != "assistant":
                lines.append(f"{turn.role.capitalize()}: {turn.text}\n")
                continue
            text = "".join([*lines, "Assistant:"])
            ids = self.tokenizer.encode_inside(text) if frames else self.tokenizer.encode(text)
            frames.append(Frame(ids, self._end, spaced=False))
            lines = []
        return frames


class TokenizerTemplate(ChatTemplate):
    """The chat template of a Hugging Face tokenizer.

    Raises:
        UsageError: for one under which training and inference could not see the same tokens.
    """

    name = "tokenizer"

    def __init__(self, tokenizer: TextTokenizer, template: JinjaTemplate) -> None:
        super().__init__(tokenizer)
        self._template = template
        tokens = sorted(template.added_tokens, key=len, reverse=True)
        self._markup = re.compile("(" + "|".join(map(re.escape, tokens)) + ")" if tokens else "(?!)")

    def frames(self, turns: Sequence[Turn]) -> list[Frame]:
        rendered = self._render(turns, generation_prompt=False)
        responses = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        frames, begin = [], 0
        for i in responses:
            prompt = self._render(turns[:i], generation_prompt=True)
            if not rendered.startswith(prompt + _hole(i)):
                raise UsageError(
                    f"the chat template of {self.tokenizer.model} writes different text before an answer in training "
                    f"than when it prompts a model; {_USE_PLAIN}"
                )
            start = len(prompt)
            behind = start + len(_hole(i))
            end = self._end_of_turn(rendered, behind)
            frames.append(
                Frame(
                    self._encode(rendered[begin:start], turns),
                    self._encode(rendered[behind:end], turns),
                    rendered[start - 1 : start].isspace(),
                )
            )
            begin = end
        return frames

    def _render(self, turns: Sequence[Turn], generation_prompt: bool) -> str:
        """The conversation with a placeholder for each text."""
        messages = [{"role": turn.role, "content": _hole(i)} for i, turn in enumerate(turns)]
        return self._template.render(messages, generation_prompt)

    def _end_of_turn(self, rendered: str, behind: int) -> int:
        """Where the first special token after a response ends."""
        found = self._markup.search(rendered, behind)
        next_hole = _HOLE.search(rendered, behind)
        if not found or (next_hole and next_hole.start() < found.start()):
            raise UsageError(
                f"the chat template of {self.tokenizer.model} ends an answer without a special token, so that a model "
                f"could not learn to end one; {_USE_PLAIN}"
            )
        return found.end()

    def _encode(self, rendered: str, turns: Sequence[Turn]) -> list[int]:
        """Ids of a piece of the rendered conversation: special tokens, and the runs of text between them, in
        which the template's text and the user's are tokenised together, as inference usually does."""
        ids: list[int] = []
        for i, piece in enumerate(self._markup.split(rendered)):
            if i % 2:
                ids.append(self._template.added_tokens[piece])
            elif piece:
                text = _HOLE.sub(lambda match: turns[int(match[1])].text, piece)
                ids += self.tokenizer.encode_inside(text) if text else []
        return ids


def _hole(i: int) -> str:
    return f"\ue000{i}\ue001"


def load_template(tokenizer: TextTokenizer, name: str | None) -> ChatTemplate:
    """The template `name`, "plain" or "tokenizer"; by default the tokenizer's if it has one.

    Raises:
        UsageError: when the tokenizer has none, or no end-of-text token.
    """
    tokenizer.require_eos()
    template = read_chat_template(tokenizer) if name != "plain" else None
    if template is not None and template.source == PLAIN_JINJA.read_text(encoding="utf-8"):
        return PlainTemplate(tokenizer)  # the same tokens
    if template is not None:
        return TokenizerTemplate(tokenizer, template)
    if name == "tokenizer":
        raise UsageError(f"--chat-template tokenizer: {tokenizer.model} has no chat template; {_USE_PLAIN}")
    return PlainTemplate(tokenizer)
