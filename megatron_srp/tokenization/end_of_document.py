"""Whether a tokenizer's eos ends documents, or turns of a chat.

Tokenizers of instruct models name the end of a turn as eos, such as `<|im_end|>`, and still have the token that ended
the documents of pretraining, such as `<|endoftext|>`.
"""

from megatron_srp.errors import SrpError
from megatron_srp.tokenization import described_eod_token
from megatron_srp.tokenization.base import TextTokenizer
from megatron_srp.tokenization.chat_template import read_chat_template

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<｜end▁of▁sentence｜>", "<|end▁of▁text|>")


def eos_note(tokenizer: TextTokenizer) -> str | None:
    """What a user should know who has chosen no end-of-document token; None where the eos is the only candidate."""
    eos = tokenizer.eos_text
    other = next((name for name in END_OF_TEXT if name != eos and _is_reserved(tokenizer, name)), None)
    if eos is None or other is None or described_eod_token(tokenizer):
        return None
    ends_turns = _ends_turns(tokenizer, eos)
    if not ends_turns and eos in END_OF_TEXT:
        return None
    role = ", with which its chat template ends turns" if ends_turns else ""
    return (
        f"{eos} ends documents and follows unsafe verdicts: it is the tokenizer's eos{role}. The vocabulary also "
        f"has {other}; with that, the end of a text and the end of a turn stay two different things to the model. Pass "
        f"--eod-token '{other}' to use it, or --eod-token '{eos}' to keep this one, to srp preprocess and srp sft alike"
    )


def _is_reserved(tokenizer: TextTokenizer, name: str) -> bool:
    """Whether it is a token that no text can become: Gemma's `</s>` is HTML."""
    return tokenizer.token_id(name) is not None and not tokenizer.text_can_be(name)


def _ends_turns(tokenizer: TextTokenizer, eos: str) -> bool:
    template = read_chat_template(tokenizer)
    if template is None:
        return False
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    try:
        text = template.render(turns, generation_prompt=False)
    except SrpError:  # it takes other turns
        return eos in template.source
    return text.partition("assistant")[2].rpartition("assistant")[2].lstrip().startswith(eos)
