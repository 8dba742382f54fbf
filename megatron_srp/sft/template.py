"""How turns become tokens: what comes before a response, and what ends it.

A response is tokenized separately from what comes before it, so that there is a token boundary where a model
begins to write: inference gets the same ids from `prompt_ids`. Two forms:

    plain       System: Be brief.\\nUser: How do I bake bread?\\nAssistant: <think> Safe </think> Mix ...EOS
                Later turns follow directly after the EOS.
    tokenizer   The tokenizer's own chat template, rendered around placeholders. Special tokens are recognized
                only where the template has them: a `<|im_end|>` in somebody's text is text.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError, UsageError
from megatron_srp.sft.conversation import CALL, Turn
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
        spaced: whether `before` sets a text after it off, by white space or a special token; else a space does.
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

    @abstractmethod
    def trim(self, text: str) -> str:
        """A response with the white space around it that the template leaves among earlier turns."""

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

    def trim(self, text: str) -> str:
        return text.strip() or text

    def frames(self, turns: Sequence[Turn]) -> list[Frame]:
        frames: list[Frame] = []
        lines: list[str] = []
        for turn in turns:
            if turn.role != "assistant":
                lines.append(f"{turn.role.capitalize()}: {turn.text}\n")
                continue
            text = "".join([*lines, "Assistant:"])
            frames.append(Frame(self.tokenizer.encode(text), self._end, spaced=False))
            lines = []
        return frames


class TokenizerTemplate(ChatTemplate):
    """The chat template of a Hugging Face tokenizer.

    What comes before an answer is what the template writes to prompt for it, after the earlier turns as it writes
    them then: templates may treat the last answer of a finished conversation in another way.

    Raises:
        UsageError: for one under which training and inference could not see the same tokens.
    """

    name = "tokenizer"

    def __init__(self, tokenizer: TextTokenizer, template: JinjaTemplate) -> None:
        super().__init__(tokenizer)
        self._template = template
        tokens = sorted(template.added_tokens, key=len, reverse=True)
        self._markup = re.compile("(" + "|".join(map(re.escape, tokens)) + ")" if tokens else "(?!)")
        self._kept: dict[tuple[str, str], tuple[str, str]] = {}

    def frames(self, turns: Sequence[Turn]) -> list[Frame]:
        answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        prompts = [self._render(turns[:i], generation_prompt=True) for i in answers]
        frames, begin, mark = [], 0, ""
        for k, i in enumerate(answers):
            prompt = prompts[k]
            finished = prompts[k + 1] if k + 1 < len(prompts) else self._render(turns[: i + 1], generation_prompt=False)
            after, own_space = self._after(finished, prompt, i, last=k + 1 == len(prompts))
            end = self._end_of_turn(finished, after)
            before = self._encode(prompt[begin:], turns, mark)
            ending = self._encode_pieces(finished[after:end], turns)
            frames.append(Frame(before, ending, self._stands_apart(prompt) and not own_space))
            begin, mark = end, self._markup.findall(finished[after:end])[-1]
        return frames

    def trim(self, text: str) -> str:
        core = text.strip()
        begin, _, end = text.partition(core) if core else ("", "", "")
        if not (begin or end):
            return text
        if (begin, end) not in self._kept:
            self._kept[begin, end] = self._keep(begin, end)
        kept_begin, kept_end = self._kept[begin, end]
        return f"{kept_begin}{core}{kept_end}"

    def _keep(self, begin: str, end: str) -> tuple[str, str]:
        """What the template keeps of the white space around an answer among earlier turns; all where it takes no such
        turns."""

        def around(answer: str) -> tuple[str, str]:
            texts = zip(("user", "assistant", "user"), (_hole(0), answer, _hole(2)), strict=True)
            messages = [{"role": role, "content": text} for role, text in texts]
            pieces = _HOLE.split(self._template.render(messages, generation_prompt=True))
            return pieces[2], pieces[4]

        try:
            bare, spaced = around(_hole(1)), around(f"{begin}{_hole(1)}{end}")
        except (UsageError, IndexError):
            return begin, end
        return spaced[0].removeprefix(bare[0]), spaced[1].removesuffix(bare[1])

    def _after(self, finished: str, prompt: str, i: int, last: bool) -> tuple[int, bool]:
        """Where answer `i` ends in a conversation that has it, and whether the template writes a space between the
        `prompt` for it and the answer. Before the last answer Qwen3's writes its empty thoughts as well."""
        hole = _hole(i)
        at = finished.find(hole)
        between = finished[len(prompt) : at]
        if at < 0 or not finished.startswith(prompt) or (between not in ("", " ") and not last):
            raise UsageError(
                f"the chat template of {self.tokenizer.model} writes different text before an answer in training "
                f"than when it prompts a model; {_USE_PLAIN}"
            )
        return at + len(hole), between == " "

    def _render(self, turns: Sequence[Turn], generation_prompt: bool) -> str:
        """The conversation with a placeholder for each text."""
        return self._template.render([self._message(i, turn) for i, turn in enumerate(turns)], generation_prompt)

    def _message(self, i: int, turn: Turn) -> dict[str, Any]:
        if turn.role != CALL:
            return {"role": turn.role, "content": _content(i, turn)}
        if forged := next((token for token in self._template.special_tokens if token in turn.text), None):
            raise InputError(f"the call of a tool contains {forged}, a special token; remove that conversation")
        return {"role": "assistant", **json.loads(turn.text)}

    def _end_of_turn(self, rendered: str, after: int) -> int:
        """Where the first special token after a response ends."""
        found = self._markup.search(rendered, after)
        next_hole = _HOLE.search(rendered, after)
        if not found or (next_hole and next_hole.start() < found.start()):
            raise UsageError(
                f"the chat template of {self.tokenizer.model} ends an answer without a special token, so that a model "
                f"could not learn to end one; {_USE_PLAIN}"
            )
        return found.end()

    def _stands_apart(self, prompt: str) -> bool:
        """Whether an answer after `prompt` needs no space before it."""
        last = self._markup.split(prompt)[-1]
        return not last or last[-1].isspace()

    def _encode(self, rendered: str, turns: Sequence[Turn], mark: str) -> list[int]:
        """Ids of a piece of the rendered conversation that follows the special token `mark` ("" at its beginning), as
        the tokenizer encodes the whole text in inference; but special tokens in somebody's text are text."""
        filled = _fill(rendered, turns)
        reserved = self._template.special_tokens
        if any(token in turns[int(i)].text for i in _HOLE.findall(rendered) for token in reserved):
            return self._encode_pieces(rendered, turns)
        ids = self._template.encode(mark + filled)
        return ids[1:] if mark else ids

    def _encode_pieces(self, rendered: str, turns: Sequence[Turn]) -> list[int]:
        """Ids of the template's special tokens, and of the runs of text between them."""
        ids: list[int] = []
        for i, piece in enumerate(self._markup.split(rendered)):
            if i % 2:
                ids.append(self._template.added_tokens[piece])
            elif text := _fill(piece, turns):
                ids += self.tokenizer.encode_inside(text)
        return ids


def _hole(i: int) -> str:
    return f"\ue000{i}\ue001"


def _content(i: int, turn: Turn) -> str:
    """A placeholder for what is between the white space around a text, which templates may trim. An answer's own is
    trimmed before (`trim`)."""
    if turn.role == "assistant":
        return _hole(i)
    core = turn.text.strip()
    return turn.text.replace(core, _hole(i), 1) if core else turn.text


def _fill(rendered: str, turns: Sequence[Turn]) -> str:
    """The rendered text with the turns' own texts."""
    return _HOLE.sub(lambda match: turns[int(match[1])].text.strip(), rendered)


def _code(template: str) -> str:
    """The template without the comment that it begins with, which differs between releases."""
    return template.rpartition("-#}")[2]


def load_template(tokenizer: TextTokenizer, name: str | None) -> ChatTemplate:
    """The template `name`, "plain" or "tokenizer"; by default the tokenizer's if it has one.

    Raises:
        UsageError: when the tokenizer has none, or no end-of-text token.
    """
    tokenizer.require_eos()
    template = read_chat_template(tokenizer) if name != "plain" else None
    if template is not None and _code(template.source) == _code(PLAIN_JINJA.read_text(encoding="utf-8")):
        return PlainTemplate(tokenizer)  # the same tokens
    if template is not None:
        return TokenizerTemplate(tokenizer, template)
    if name == "tokenizer":
        raise UsageError(f"--chat-template tokenizer: {tokenizer.model} has no chat template; {_USE_PLAIN}")
    return PlainTemplate(tokenizer)
