"""Conversations with white space where templates trim, and the ids that training has for them."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SAFE
from megatron_srp.sft.conversation import Conversation, Kind, Part, Turn
from megatron_srp.sft.encode import ConversationEncoder
from megatron_srp.sft.history import examples
from megatron_srp.sft.reflect import reflection_parts
from megatron_srp.sft.template import PLAIN_JINJA, load_template
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


def reflecting(conversation: Sequence[tuple[str, str]], form: ReflectionFormat) -> Conversation:
    """The conversation with a reflection before and after each answer."""
    safe = reflection_parts(SAFE, form)
    turns = (
        Turn(role, (*safe, Part(Kind.TEXT, text), *safe)) if role == "assistant" else Turn.of(role, text)
        for role, text in conversation
    )
    return Conversation("i", "s", tuple(turns))


def assert_served_as_trained(
    tokenizer: TextTokenizer, conversation: Sequence[tuple[str, str]], name: str | None = None
) -> None:
    """Before each answer, the ids that `srp sft` writes and those that a server makes of the messages are the same.

    Args:
        name: of the template in training.
    """
    form = ReflectionFormat()
    served = _served(str(tokenizer.model), name)
    encode = ConversationEncoder(load_template(tokenizer, name), form)
    options = Options(GuardPolicy(), Sampling())
    messages = [{"role": role, "content": text} for role, text in conversation]
    answers = [i for i, (role, _) in enumerate(conversation) if role == "assistant"]
    made = [encode(example) for example in examples(reflecting(conversation, form))]
    for i, example in zip(answers, made, strict=True):
        first = int(np.argmax(example.mask))
        assert example.ids[:first].tolist() == served.chat(messages[:i], options).prompt
        assert example.mask[first:].all()


@lru_cache(maxsize=2)  # a large vocabulary takes seconds to load
def _served(model: str, name: str | None) -> PromptedModel:
    served = PromptedModel(model, ReflectionFormat())
    served.max_length = 8192
    if name == "plain":
        served.use_template(PLAIN_JINJA.read_text())
    return served
