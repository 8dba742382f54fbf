"""Earlier answers as a served model reads them: plain text, since nobody sends reflections back.

A conversation becomes an example for each of its answers. Reflections are in the one that is learned; those before it
are what `srp serve`, `srp generate --chat` and the plug-in for vLLM show of an answer, and write into the history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from megatron_srp.sft.conversation import Conversation, Kind, Part, Turn


def examples(conversation: Conversation) -> Iterator[Conversation]:
    """An example for each learned answer, or the conversation itself where no earlier answer has reflections."""
    turns = conversation.turns
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not any(_reflects(turns[i]) for i in answers[:-1]):
        yield conversation
        return
    for i in answers:
        if any(part.trained for part in turns[i].parts):
            yield replace(conversation, turns=(*_history(turns[:i]), turns[i]))


def _reflects(turn: Turn) -> bool:
    return any(part.kind is not Kind.TEXT for part in turn.parts)


def _history(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with answers as text that is not learned again."""
    return [
        Turn(turn.role, (Part(Kind.TEXT, turn.text, trained=False),)) if turn.role == "assistant" else turn
        for turn in turns
    ]
