"""Conversations with white space where templates trim, and the ids that training has for them."""

from collections.abc import Sequence

from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import Conversation, Turn
from megatron_srp.sft.encode import ConversationEncoder
from megatron_srp.sft.template import load_template
from megatron_srp.tokenization import TextTokenizer

# An answer begins with no white space that a template might keep: before it is where a model begins to write, and so
# the boundary of a token.
CONVERSATIONS = (
    (("user", "How do I bake bread?\n"), ("assistant", "Flour. \n"), ("user", " 2+2? "), ("assistant", "4\n\n")),
    (("system", "Be brief.\n"), ("user", "\n\na\n\n"), ("assistant", "It is 4."), ("user", "Why?"), ("assistant", "So.")),
    (("system", " S"), ("user", "plain"), ("assistant", "Sure.\n\t")),
    (("user", " \n "), ("assistant", "Ja, 日本 ½."), ("user", "É\u2028?"), ("assistant", "x"), ("user", "z"), ("assistant", "y")),
)  # fmt: skip


def answers_in_training(tokenizer: TextTokenizer, conversation: Sequence[tuple[str, str]]) -> list[int]:
    """All ids of the conversation, without reflections, by the tokenizer's own template."""
    encode = ConversationEncoder(load_template(tokenizer, "tokenizer"), ReflectionFormat())
    return encode(Conversation("i", "s", tuple(Turn.of(*turn) for turn in conversation))).ids.tolist()
