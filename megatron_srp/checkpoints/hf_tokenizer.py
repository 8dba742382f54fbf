"""The tokenizer of a run as transformers loads it, with a chat template that keeps reflections."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import write_json, write_text
from megatron_srp.sft.template import PLAIN_JINJA, load_template
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from megatron_srp.tokenization.huggingface import HuggingFaceTextTokenizer, read_config
from megatron_srp.tokenization.sentencepiece import SentencePieceTextTokenizer

TokenIds = dict[str, int | list[int] | None]
REFLECTED = "<think> Safe </think> An answer. <think> Safe </think>"
_SAMPLE = f" The 3.14 café\n\n\t日本 ½ don't {REFLECTED} <|endoftext|> <s> end  "
# Join pieces as SentencePiece does; the conversion omits this part.
_SENTENCEPIECE_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def save_tokenizer(tokenizer: TextTokenizer, folder: Path, chat_template: str | None = None) -> TokenIds:
    """Write tokenizer.json, its configuration and chat_template.jinja into `folder`.

    Args:
        chat_template: the one that the model's conversations were written with, "tokenizer" or "plain". By default
            the tokenizer's own if it keeps reflections.

    Returns:
        `bos_token_id`, `eos_token_id` and `pad_token_id`, None for one that it does not have. Where the end of a
        turn is another token than the end of a document, `eos_token_id` is a list that begins with the latter.

    Raises:
        InputError: when transformers would return other ids than the training data has.
    """
    config = _save_files(tokenizer, folder)
    own_template = config.pop("chat_template", None)
    # The class of that name loads tokenizer.json unchanged; those of single models rebuild a part of it.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(folder / "tokenizer_config.json", config)

    from transformers import AutoTokenizer

    template = own_template if isinstance(own_template, str) and chat_template != "plain" else None
    if template and chat_template is None and not _keeps_reflections(AutoTokenizer.from_pretrained(folder), template):
        template = None
    if template is None:  # the plain template ends turns as documents end
        write_json(folder / "tokenizer_config.json", config | {"eos_token": tokenizer.eos_text})
    write_text(folder / "chat_template.jinja", template or PLAIN_JINJA.read_text(encoding="utf-8"))
    _compare(tokenizer, folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = {f"{name}_token_id": getattr(loaded, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return ids | {"eos_token_id": _ends(tokenizer, folder)}


def _ends(tokenizer: TextTokenizer, folder: Path) -> int | list[int] | None:
    """The tokens that end an answer: the end-of-document token, and what ends a turn in the template of `folder`."""
    written = load_tokenizer("HuggingFaceTokenizer", folder).ending_documents_with(tokenizer.eos_text)
    ends = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    if ends:
        with suppress(UsageError):  # the template takes other turns, or does not end them
            ends.append(load_template(written, None).end_of_turn)
    distinct = list(dict.fromkeys(ends))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)


def _save_files(tokenizer: TextTokenizer, folder: Path) -> dict[str, Any]:
    """Write tokenizer.json; returns the content of its tokenizer_config.json."""
    if isinstance(tokenizer, HuggingFaceTextTokenizer):
        source = Path(tokenizer.model)
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
        template = source / "chat_template.jinja"
        return read_config(source) | (
            {"chat_template": template.read_text(encoding="utf-8")} if template.is_file() else {}
        )
    assert isinstance(tokenizer, SentencePieceTextTokenizer)
    return _save_sentencepiece(tokenizer, folder)


def _save_sentencepiece(tokenizer: SentencePieceTextTokenizer, folder: Path) -> dict[str, Any]:
    fast = tokenizer.fast_json()
    if fast is None:
        raise InputError(
            f"{tokenizer.model}: transformers has no exact form of this SentencePiece model (only of BPE with bytes "
            f"as the fallback); pass the folder of a converted one with --tokenizer-model"
        )
    names = tokenizer.special_pieces()
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    spec = json.loads(fast)
    special = [{"id": i, "content": piece, **flags, "special": True} for piece, i in names.values()]
    spec["added_tokens"] = sorted(special + spec["added_tokens"], key=lambda token: token["id"])
    write_json(folder / "tokenizer.json", spec | {"decoder": _SENTENCEPIECE_DECODER})
    return {f"{name}_token": piece for name, (piece, _) in names.items()}


def _keeps_reflections(tokenizer: Any, template: str) -> bool:
    """Whether a template leaves an assistant's words alone. (Some remove all within `<think>`.)"""
    chat = [("user", "Hello"), ("assistant", REFLECTED), ("user", "And?"), ("assistant", REFLECTED)]
    messages = [{"role": role, "content": content} for role, content in chat]
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    except Exception:  # a template is a program that may fail in any way
        return False
    return bool(text.count(REFLECTED) == 2 and text.count("<think>") == 2 * REFLECTED.count("<think>"))


def _compare(tokenizer: TextTokenizer, folder: Path) -> None:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder).encode(_SAMPLE, add_special_tokens=False, split_special_tokens=True)
    if ids != tokenizer.encode(_SAMPLE):
        raise InputError(
            f"{tokenizer.model}: transformers returns other ids than the training data has; pass the folder of a "
            f"tokenizer.json that matches it with --tokenizer-model"
        )
