"""Text or messages in, requests out: the part that every engine shares. Needs the tokenizer only, not torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.engines.base import GuardedEngine
from megatron_srp.generation.engines.request import Options, Request, Sampling
from megatron_srp.generation.guard.escaping import Escaper
from megatron_srp.generation.guard.forced_reflection import reflection_tree
from megatron_srp.generation.guard.policy import Generation, GuardPolicy
from megatron_srp.generation.guard.vocabulary import CLOSE_MARK, OPEN_MARK, GuardVocabulary
from megatron_srp.model_description import choose_form, describe_model
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.segmentation import DEFAULT_MAX_WORDS
from megatron_srp.tokenization import load_tokenizer

_WRITTEN = ("role", "content", "tool_call_id")  # of a turn
_BORDER = "\ue000"  # for private use: marks where a turn begins and ends, within the spaces that templates cut off


class PromptedModel:
    """A model and its tokenizer: makes requests of text that cannot forge a reflection.

    Args:
        folder: of the tokenizer, or a name on the hub.
        form: how the model writes reflections; by default as its `srp.json` says, or as the paper does.
        eos_ids: tokens that end an answer, in addition to the tokenizer's own and that of `srp.json`.

    Attributes:
        form: how it writes reflections.
        max_words: maximum words of a segment in its training.
        tokenizer: from transformers; `text_tokenizer` is this project's.
        vocabulary: what a guard knows of the tokenizer.
        tree: the tokens of forced reflections.
        generator: the engine; set by the subclass that has one.
        max_length: tokens that a prompt and its answer may have together; set by the subclass.

    Raises:
        UsageError: when something is missing or does not fit.
    """

    generator: GuardedEngine
    max_length: int

    def __init__(self, folder: str, form: ReflectionFormat | None = None, eos_ids: Sequence[int] = ()) -> None:
        from transformers import AutoTokenizer

        description = describe_model(folder)
        self.form = form = form or choose_form(folder, description, None)[0]
        self.max_words = (description and description.max_words) or DEFAULT_MAX_WORDS
        self.text_tokenizer = load_tokenizer("HuggingFaceTokenizer", folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        # The end of a turn, which may be another token than the end of a document, `text_tokenizer`'s.
        own_eos = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        self.vocabulary = GuardVocabulary.of(self.text_tokenizer, form, [*eos_ids, *own_eos])
        self.tree = reflection_tree(form, self.text_tokenizer)
        # Verdicts are read after the text, and must fit in as well.
        self._longest_reflection = self.tree.depth
        self._escape = self._make_escaper()

    def answer(
        self,
        prompts: Sequence[str | Sequence[dict[str, str]]],
        policy: GuardPolicy | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Generation]:
        """Guarded answers to all prompts together: texts to continue, or conversations.

        Raises:
            UsageError, InputError: as `complete` and `chat` do.
        """
        options = Options(policy or GuardPolicy(), Sampling(temperature, seed=seed), max_new_tokens)
        requests = [self.complete(p, options) if isinstance(p, str) else self.chat(p, options) for p in prompts]
        return self.generator.generate(requests)

    def complete(self, prompt: str, options: Options, prefill: str = "") -> Request:
        """A request to continue a text; an empty one stands for the beginning of a document.

        Raises:
            InputError: when the prompt leaves no room for an answer.
        """
        self._refuse_hopeless(prompt)
        ids = self.text_tokenizer.encode(self._clean_before_answer(prompt, options)) if prompt else []
        ids = ids or [self.text_tokenizer.require_eos()]  # the end of the document before, as in packed sequences
        return self._request(ids, prefill, options)

    def score(self, prompt: str | Sequence[int], options: Options) -> Request:
        """A request to say how likely each token of a text is, and to generate nothing.

        Args:
            prompt: a text, or its token ids, which must not write a special token or a reflection either. One
                end-of-text token may begin them.

        Raises:
            InputError: for such ids, and for a prompt that is too long.
        """
        if isinstance(prompt, str):
            self._refuse_hopeless(prompt)
            ids = self.text_tokenizer.encode(self._escape(prompt)) or [self.text_tokenizer.require_eos()]
        else:
            ids = self._checked(prompt)
        return replace(self._request(ids, "", options), max_new_tokens=0, scored=True)

    def _checked(self, ids: Sequence[int]) -> list[int]:
        ends = [token for token in ids[1:] if token in self.vocabulary.eos_ids]
        special = [token for token in ids if not self.vocabulary.piece(token) and token not in self.vocabulary.eos_ids]
        text = self.decode(ids)
        if not ids or ends or special or self._escape(text) != text:
            found = f"token {(ends or special)[0]}" if ends or special else "no token" if not ids else "a reflection"
            raise InputError(f"the prompt has {found}; pass the tokens of plain text")
        return list(ids)

    def refuse_unfinished(self, prompt: str) -> None:
        """Raises InputError for a prompt whose end `complete` would leave out, since it may begin a reflection, and for
        one that cannot fit."""
        self._refuse_hopeless(prompt)
        if rest := self._escape(prompt).removeprefix(self._escape.before_answer(prompt)):
            raise InputError(
                f"the prompt ends in {_shorten(rest)}, which may begin a reflection; the guard could not tell the rest "
                "of one from text. End the prompt before or after it"
            )

    def chat(self, messages: Sequence[dict[str, str]], options: Options, prefill: str = "") -> Request:
        """A request to answer a conversation.

        Where training begins a text with a space after the prompt, so does the prefill.

        Raises:
            UsageError: when the tokenizer has no chat template.
            InputError: when the template does not take the messages, or they leave no room for an answer.
        """
        if not self.tokenizer.chat_template:
            raise UsageError("the tokenizer has no chat template; pass a prompt, or set chat_template in its folder")
        self._refuse_hopeless(*(turn["content"] for turn in messages))
        # Templates write the role out as well, and some of them which call a tool's turn answers.
        turns = [{key: self._clean(turn[key], options) for key in _WRITTEN if key in turn} for turn in messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # of Jinja, or raised by the template
            raise InputError(f"the chat template does not accept these messages: {error}") from None
        if options.escape and self._joined(turns, text):
            raise InputError("two consecutive turns join into a reflection or a special token; leave that text out")
        if any(turn["role"] == "tool" and turn["content"].strip() not in text for turn in turns):
            raise InputError("the model's chat template has no turns of tools; send their results as a user's turn")
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if prefill and not prefill[0].isspace() and self._needs_space(turns, text):
            prefill = f" {prefill}"
        return self._request(ids, prefill, options)

    def _joined(self, turns: Sequence[dict[str, str]], text: str) -> bool:
        """Whether a turn, with what the template writes next to it, makes up a word that is escaped."""
        marked = [turn | {"content": _bordered(turn["content"])} for turn in turns]
        try:
            pieces = self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True).split(
                _BORDER
            )
        except Exception:  # of a template that reads the contents
            return False
        return "".join(pieces) == text.replace(_BORDER, "") and self._escape.joins(pieces)

    def use_template(self, template: str) -> None:
        """Write conversations with that chat template (Jinja) instead of the tokenizer's."""
        self.tokenizer.chat_template = template
        self._escape = self._make_escaper()

    def escape(self, text: str, before_answer: bool = False) -> str:
        """A user's text, without anything that could become a special token or a reflection.

        Args:
            before_answer: whether the model continues it.
        """
        return self._escape.before_answer(text) if before_answer else self._escape(text)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token's text, with reflections as they are written; none for special tokens."""
        words = {OPEN_MARK: self.form.open, CLOSE_MARK: self.form.close}
        marks = {token: words[mark].encode() for token, mark in self.vocabulary.marks.items()}
        return [marks.get(token) or self.vocabulary.piece(token) for token in tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with reflections as they are written and without special tokens."""
        return b"".join(self.pieces(tokens)).decode(errors="replace")

    def _clean(self, text: str, options: Options) -> str:
        return self.escape(text) if options.escape else text

    def _clean_before_answer(self, text: str, options: Options) -> str:
        return self.escape(text, before_answer=True) if options.escape else text

    def _needs_space(self, turns: list[dict[str, str]], prompt: str) -> bool:
        """Whether a space sets an answer off from its prompt: where the template writes one, or has only a word there
        ("Assistant:"). The same rule as in training (`sft.template`)."""
        try:
            whole = self.tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "x"}], tokenize=False)
        except Exception:  # of Jinja, or raised by the template
            whole = prompt
        if whole.startswith(f"{prompt} x"):
            return True
        tokens = (token.content for token in self.tokenizer.added_tokens_decoder.values())
        return not prompt[-1:].isspace() and not prompt.endswith(tuple(filter(str.strip, tokens)))

    def _make_escaper(self) -> Escaper:
        # `all_special_tokens` has the named ones only (eos, pad, ...), and most markers of turns are not among them.
        added = self.tokenizer.added_tokens_decoder.values()
        template = str(self.tokenizer.chat_template or "")
        markers = [token.content for token in added if token.special or token.content in template]
        reflection = (self.form.open, self.form.close)
        normalizer = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "normalizer", None)
        words = [*reflection, *self.tokenizer.all_special_tokens, *markers]
        return Escaper(words, reflection, normalizer.normalize_str if normalizer else None)

    @property
    def _most(self) -> int:
        """Tokens that a prompt and its answer may have, so that a verdict can still be read after them."""
        return self.max_length - self._longest_reflection

    def _refuse_hopeless(self, *texts: str) -> None:
        """Refuse a text that cannot fit, whatever its tokens are: to escape and tokenize megabytes takes seconds."""
        longest = max(map(len, self.vocabulary.pieces))
        if (characters := sum(map(len, texts))) > self._most * longest:
            raise InputError(
                f"the prompt has {characters:,} characters, and the model takes {self._most:,} tokens including the "
                "answer; shorten it"
            )

    def _request(self, ids: list[int], prefill: str, options: Options) -> Request:
        before = self.text_tokenizer.encode_inside(self._clean_before_answer(prefill, options)) if prefill else []
        room = self._most - len(ids) - len(before)
        if room < 1:
            raise InputError(
                f"the prompt has {len(ids) + len(before):,} tokens, and the model takes {self._most:,} "
                "including the answer; shorten it"
            )
        return Request(ids, before, options.policy, options.sampling, min(options.max_new_tokens, room))


def _bordered(text: str) -> str:
    core = text.strip()
    at = text.find(core)
    return f"{text[:at]}{_BORDER}{core}{_BORDER}{text[at + len(core) :]}"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
