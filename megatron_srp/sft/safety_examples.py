"""Examples of what to do with a harmful request, and with a harmful answer that has already begun.

    refusal    user: HARMFUL   assistant: <think> Unsafe </think>STOP I cannot help with that. <think> Safe </think>
    recovery   user: HARMFUL   assistant: (the beginning of an answer) <think> Unsafe: Violent </think>STOP I cannot ...
    forged     user: HARMFUL   assistant: (<think> Safe </think> the beginning of an answer) <think> Unsafe ...

The beginning of a recovery is where an attacker would put it, directly after the prompt, and is not
learned. Its length and the refusal that follows are drawn with the seed. So is the place of a forged reflection:
before the beginning or inside it, so that what is learned is to judge again, and not one sequence of tokens.
"""

import random
import re
from collections.abc import Iterable, Sequence

from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.sft.conversation import STOP, Conversation, Kind, Part, Turn
from megatron_srp.sft.reflect import reflection_parts

MOST_WORDS = 60  # of a harmful beginning
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't assist with this request.",
    "I'm not able to help with that, because it could cause harm.",
    "Sorry, I won't help with this. If there is something safe you would like to know instead, please ask.",
    "I cannot provide that, since it could put people at risk.",
    "That is something I have to decline. I'd be glad to help with a safe question.",
    "I must refuse: following such instructions could hurt someone.",
    "I won't continue with this, because it could be used to do harm.",
)
_UNSAFE = SafetyLabel(Verdict.UNSAFE)
_WORD = re.compile(r"\s*\S+")


def refusal_examples(
    harmful: Sequence[Conversation], count: int, form: ReflectionFormat, seed: int
) -> list[Conversation]:
    """At most `count` conversations of a harmful prompt that is refused."""
    rng = random.Random(f"refusals:{seed}")
    chosen = rng.sample(harmful, min(count, len(harmful)))
    return [_example("refusal", c, [*_stopped(_UNSAFE, form), *_refusal(rng, form)]) for c in chosen]


def recovery_examples(
    harmful: Iterable[tuple[Conversation, SafetyLabel]],
    count: int,
    form: ReflectionFormat,
    seed: int,
    forged_share: float = 0.0,
) -> list[Conversation]:
    """At most `count` conversations in which a harmful answer begins, is recognised and abandoned.

    Args:
        harmful: conversations with a response, and the label of that response.
        forged_share: of them, 0 to 1, how many have a reflection in their beginning that says Safe.
    """
    rng = random.Random(f"recoveries:{seed}")
    answered = list(harmful)
    chosen = rng.sample(answered, min(count, len(answered)))
    forged = random.Random(f"forged:{seed}")  # apart, so that the other examples stay as they are without it
    num_forged = round(forged_share * len(chosen))
    examples = []
    for number, (conversation, label) in enumerate(chosen):
        words = _WORD.findall(_response(conversation))
        words = words[: rng.randint(1, min(MOST_WORDS, len(words)))]
        beginning = _vouched(words, form, forged) if number < num_forged else [_unlearned("".join(words))]
        kind = "forged" if number < num_forged else "recovery"
        examples.append(_example(kind, conversation, [*beginning, *_stopped(label, form), *_refusal(rng, form)]))
    return examples


def _vouched(words: Sequence[str], form: ReflectionFormat, rng: random.Random) -> list[Part]:
    """The words with a Safe reflection before or between them, as somebody who forges one would write it."""
    at = rng.choice((0, rng.randrange(len(words))))
    before, after = "".join(words[:at]), "".join(words[at:])
    spaced = after if after[:1].isspace() else f" {after}"
    texts = [_unlearned(before)] if before else []
    return [*texts, Part(Kind.REFLECTION, form.render(SAFE), trained=False), _unlearned(spaced)]


def _unlearned(text: str) -> Part:
    return Part(Kind.TEXT, text, trained=False)


def _response(conversation: Conversation) -> str:
    return next(turn.text for turn in conversation.turns if turn.role == "assistant")


def answered(harmful: Iterable[Conversation]) -> list[tuple[Conversation, str]]:
    """Those that have a response, with that response."""
    return [(c, _response(c)) for c in harmful if any(turn.role == "assistant" for turn in c.turns)]


def _stopped(label: SafetyLabel, form: ReflectionFormat) -> list[Part]:
    """The reflection and, whatever `form` says about its verdict, a stop: that is what these examples teach."""
    parts = reflection_parts(label, form)
    return parts if parts[-1] is STOP else [*parts, STOP]


def _refusal(rng: random.Random, form: ReflectionFormat) -> list[Part]:
    return [Part(Kind.TEXT, f" {rng.choice(REFUSALS)}"), *reflection_parts(SAFE, form)]


def _example(kind: str, conversation: Conversation, parts: list[Part]) -> Conversation:
    """The first request, with `parts` as the answer."""
    first = next(i for i, turn in enumerate(conversation.turns) if turn.role == "user")
    turns = (*conversation.turns[: first + 1], Turn("assistant", tuple(parts)))
    return Conversation(f"{kind}:{conversation.id}", kind, turns)
