"""Prompts as text, for servers that take no token ids.

Such a server reads every `<|im_end|>` as the special token, whoever wrote it. So in the prompt's
plain text, each name of an added token gets a ZERO WIDTH SPACE after its first character: `<|im_end|>`
becomes `<\\u200b|im_end|>`. It looks the same but is not that token. Every prompt is then tokenized as the
server will do, and refused unless its added tokens are exactly those that it had as ids.
"""

import re
from pathlib import Path

import numpy as np

from megatron_srp.errors import UsageError
from megatron_srp.remote.hub_models import check_model_name

_BREAK = "\u200b"


class PromptText:
    """Turns ids of one tokenizer into text and back.

    Args:
        model: folder or hub name of the tokenizer.
    """

    def __init__(self, model: str | Path) -> None:
        check_model_name("tokenizer", str(model))
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(model))
        except Exception as error:  # raised by many libraries
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"tokenizer {model}: cannot be loaded ({reason}); pass a folder or a hub name") from None
        self._added = {i: token.content for i, token in self._tokenizer.added_tokens_decoder.items()}
        names = sorted(filter(str.strip, self._added.values()), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def render(self, ids: np.ndarray) -> str:
        """The prompt's text; raises ValueError where text cannot be kept apart from added tokens."""
        pieces: list[str] = []
        run: list[int] = []
        for i in [*ids.tolist(), None]:
            if i is None or i in self._added:
                pieces.append(self.neutralise(self.decode(run)))
                pieces.append("" if i is None else self._added[i])
                run = []
            else:
                run.append(i)
        text = "".join(pieces)
        seen = [i for i in self.encode(text) if i in self._added]
        if seen != [i for i in ids.tolist() if i in self._added]:
            raise ValueError("its text cannot be kept apart from the prompt's special tokens")
        return text

    def neutralise(self, text: str) -> str:
        """`text` without any name of an added token."""
        return self._names.sub(lambda match: f"{match[0][0]}{_BREAK}{match[0][1:]}", text)

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids
