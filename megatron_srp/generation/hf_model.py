"""A model folder of transformers as a guarded model: text or messages in, answers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.annotation.engines.hf_loading import choose_device, choose_dtype, load_model
from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.escaping import Escaper
from megatron_srp.generation.hf import HFGenerator, Request
from megatron_srp.generation.hf_sampling import Sampling
from megatron_srp.generation.policy import GuardPolicy
from megatron_srp.generation.verdict_tree import VerdictTree
from megatron_srp.generation.vocabulary import CLOSE_MARK, OPEN_MARK, GuardVocabulary
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import load_tokenizer


@dataclass(frozen=True, slots=True)
class Options:
    """How one answer is made.

    Attributes:
        escape: whether what looks like a reflection or a special token in the user's text is made harmless.
            Only an evaluation of bare models leaves it as it is.
    """

    policy: GuardPolicy
    sampling: Sampling
    max_new_tokens: int = 256
    escape: bool = True


class GuardedModel:
    """Loads model and tokenizer, and makes requests of text that cannot forge a reflection.

    Args:
        folder: model and tokenizer, as tools/export_hf.py writes them, or a name on the hub.
        form: how the model writes reflections.
        device: "cuda", "cuda:1" or "cpu"; by default a GPU where there is one.
        dtype: by default bfloat16 on a GPU and float32 on CPU.

    Attributes:
        generator: the engine.
        network, tokenizer: transformers' own; `text_tokenizer` is the project's.
        max_length: tokens that a prompt and its answer may have together.

    Raises:
        UsageError: when something is not there, or does not fit.
    """

    def __init__(
        self, folder: str, form: ReflectionFormat, device: str | None = None, dtype: str | None = None
    ) -> None:
        from transformers import AutoTokenizer

        where = choose_device(device)
        numbers = choose_dtype(dtype or ("bfloat16" if where.type == "cuda" else "float32"))
        if not Path(folder).exists() and Path(folder).is_absolute():
            raise UsageError(f"--model {folder}: no such folder; give one that tools/export_hf.py wrote")
        model = load_model(folder, numbers).to(where).eval()
        self.network: Any = model
        self._form = form
        self.text_tokenizer = load_tokenizer("HuggingFaceTokenizer", folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        ends = model.generation_config.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
        vocabulary = GuardVocabulary.of(self.text_tokenizer, form, ends)
        trees = {spaced: VerdictTree.of(form, self.text_tokenizer, spaced) for spaced in (False, True)}
        self.generator = HFGenerator(model, vocabulary, trees)
        self.max_length = int(model.config.max_position_embeddings)
        self._escape = Escaper([form.open, form.close, *self.tokenizer.all_special_tokens])

    def complete(self, prompt: str, options: Options, prefill: str = "") -> Request:
        """A request to go on with a text; an empty one stands for a document's beginning.

        Raises:
            InputError: when the prompt leaves no room for an answer.
        """
        ids = self.text_tokenizer.encode(self._clean(prompt, options)) if prompt else []
        ids = ids or [self.text_tokenizer.require_eos()]
        return self._request(ids, prefill, options, spaced=not prompt[-1:].isspace())

    def chat(self, messages: Sequence[dict[str, str]], options: Options, prefill: str = "") -> Request:
        """A request to answer a conversation.

        Where the template ends in a word ("Assistant:"), answers in training begin with a space, and so
        does the prefill.

        Raises:
            UsageError: when the tokenizer has no chat template.
            InputError: when the template does not take the messages, or they leave no room for an answer.
        """
        if not self.tokenizer.chat_template:
            raise UsageError("the tokenizer has no chat template; give a prompt, or set chat_template in its folder")
        turns = [{"role": turn["role"], "content": self._clean(turn["content"], options)} for turn in messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # of Jinja, or raised by the template
            raise InputError(f"the chat template does not take these messages: {error}") from None
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if prefill and not prefill[0].isspace() and not text[-1:].isspace():
            prefill = f" {prefill}"
        return self._request(ids, prefill, options, spaced=False)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token's text, with reflections as they are written; none for special tokens."""
        vocabulary = self.generator.vocabulary
        words = {OPEN_MARK: self._form.open, CLOSE_MARK: self._form.close}
        marks = {token: words[mark].encode() for token, mark in vocabulary.marks.items()}
        return [marks.get(token) or vocabulary.piece(token) for token in tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with reflections as they are written and without special tokens."""
        return b"".join(self.pieces(tokens)).decode(errors="replace")

    def _clean(self, text: str, options: Options) -> str:
        return self._escape(text) if options.escape else text

    def _request(self, ids: list[int], prefill: str, options: Options, spaced: bool) -> Request:
        before = self.text_tokenizer.encode_inside(self._clean(prefill, options)) if prefill else []
        room = self.max_length - len(ids) - len(before)
        if room < 1:
            raise InputError(
                f"the prompt has {len(ids) + len(before):,} tokens, and the model takes {self.max_length:,} with "
                "the answer; shorten it"
            )
        return Request(ids, before, options.policy, options.sampling, min(options.max_new_tokens, room), spaced)
