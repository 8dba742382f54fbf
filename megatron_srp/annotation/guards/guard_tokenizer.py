"""A guard's tokenizer: special tokens are tokens in its chat template, and plain text in the texts."""

import json
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from megatron_srp.corpus.batch import TextBatch
from megatron_srp.errors import UsageError
from megatron_srp.remote.hub_models import check_model_name
from megatron_srp.tokenization.base import TokenBatch
from megatron_srp.tokenization.fast import FastEncoder
from megatron_srp.tokenization.huggingface import HuggingFaceTextTokenizer


class GuardTokenizer:
    """The tokenizer in a folder, or of that name on the hub.

    Raises:
        UsageError: when there is none, or it is not a fast tokenizer.
    """

    def __init__(self, model: str | Path) -> None:
        check_model_name("guard tokenizer", str(model))
        from transformers import AutoTokenizer

        self.model = model
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(model))
        except Exception as error:  # raised by many libraries
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"guard tokenizer {model}: cannot be loaded ({reason}); pass a folder or a hub name"
            ) from None
        if not self._tokenizer.is_fast:
            raise UsageError(f"guard tokenizer {model}: has no tokenizer.json; save a fast tokenizer there")
        self._spec: dict[str, Any] = json.loads(self._tokenizer.backend_tokenizer.to_str())
        self._markup = [t["content"] for t in self._spec["added_tokens"] if t["content"].strip()]
        self._text = self._plain_tokenizer()
        self._fast = FastEncoder(self._text)
        self._checked = False

    def _plain_tokenizer(self) -> HuggingFaceTextTokenizer:
        """The tokenizer without its added tokens, special (<|im_end|>) or not (</think>): in a text they
        are characters. Runs of spaces, which some tokenizers add as tokens, stay."""
        spec = self._spec | {"added_tokens": [t for t in self._spec["added_tokens"] if not t["content"].strip()]}
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        with TemporaryDirectory() as folder:
            path = Path(folder, "tokenizer.json")
            path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
            return HuggingFaceTextTokenizer("HuggingFaceTokenizer", path)

    def render(
        self, turns: list[dict[str, Any]], template: str | None, generation_prompt: bool, policy: str | None = None
    ) -> str:
        """The text of a conversation rendered by `template`, or by the tokenizer's own; `policy` is a name in it."""
        if template is None and not self._tokenizer.chat_template:
            raise UsageError(f"the tokenizer {self.model} has no chat template; add one to the guard's YAML file")
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                turns,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                **({} if policy is None else {"policy": policy}),
            )
        except Exception as error:  # Jinja's, and what the template itself raises
            roles = ", ".join(turn["role"] for turn in turns)
            raise UsageError(f"the chat template of {self.model} refuses the turns {roles}: {error}") from None
        return rendered

    def encode_template(self, text: str) -> list[int]:
        """Ids of a piece of the template, including special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text."""
        return self._text.encode(text)

    def encode_texts(self, batch: TextBatch) -> TokenBatch:
        """`encode_plain` of each text, at the fast encoder's speed where that produces the same ids."""
        if not self._checked and len(batch):
            self._checked = True
            if self._fast.reason is None and self._fast.differs(batch) is not None:
                self._fast.distrust("its ids differ from the reference tokenizer's")
        return self._fast.encode_batch(batch)

    @property
    def encoder_name(self) -> str:
        """The software that encodes the texts."""
        return "gigatoken" if self._fast.reason is None else f"tokenizers ({self._fast.reason})"

    def decode(self, ids: np.ndarray) -> str:
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        return text

    def plain_end(self, text: str) -> int:
        """Where the characters after the last added token in `text` begin."""
        return max((text.rfind(token) + len(token) for token in self._markup if token in text), default=0)

    def plain_begin(self, text: str) -> int:
        """Where the first added token in `text` begins."""
        return min((text.find(token) for token in self._markup if token in text), default=len(text))

    @cached_property
    def end_ids(self) -> list[int]:
        """Tokens that end an answer: end of text, and of a turn."""
        added = self._tokenizer.get_added_vocab()
        names = {self._tokenizer.eos_token, "<|im_end|>", "<|eot_id|>", "<|eot|>", "<|endoftext|>", "<|return|>"}
        if "<|channel|>" not in added:  # in Harmony's format it ends the reasoning, which the answer follows
            names.add("<|end|>")
        return sorted({i for t, i in added.items() if t in names})

    @cached_property
    def line_break_ids(self) -> list[int]:
        """`end_ids` and all tokens with a line break, which end an answer of one line."""
        broken = [i for piece, i in self._tokenizer.get_vocab().items() if "Ċ" in piece or "\n" in piece]
        return sorted({*self.end_ids, *broken})
