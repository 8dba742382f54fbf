"""Reflections in conversations: on each prompt before its response, and on each segment after it.

    user        How do I pick a lock?
    assistant   <think> Safe </think> First feel for ... <think> Safe </think> then turn it. <think> Safe </think>

A response is cut like a pretraining document (`segmentation`), so its last reflection ends it, and judges
all text since the previous one. The concatenated texts of a turn are the original response.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import batched

import pyarrow as pa

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.classify_segments import classify_segments
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, segment_text
from megatron_srp.sft.conversation import STOP, Conversation, Kind, Part, Turn

_BATCH = 256  # conversations classified together


def reflection_parts(label: SafetyLabel, form: ReflectionFormat) -> list[Part]:
    """The reflection, with its stop if `form` has one."""
    return [Part(Kind.REFLECTION, form.render(label)), *([STOP] if form.stops(label) else [])]


def cut(text: str, max_words: int) -> list[str]:
    """The segments of a response."""
    return [text[segment.start : segment.end] for segment in segment_text(text, max_words)]


@dataclass(slots=True)
class Reflector:
    """Inserts reflections into conversations.

    Attributes:
        guard: classifies, distinguishing prompts from responses if it can.
        form: how labels are written.
        max_words: maximum words per segment.
        counts: verdicts, and conversations dropped because the guard gave none.
    """

    guard: Guard
    form: ReflectionFormat
    max_words: int = DEFAULT_MAX_WORDS
    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        """The conversations with reflections, in order; those that already have some are unchanged."""
        for batch in batched(conversations, _BATCH):
            yield from self._reflect(list(batch))

    def label(self, texts: list[str], mode: str) -> list[SafetyLabel | None]:
        """A label for each text, None if the guard returns no verdict."""
        verdicts = classify_segments(self.guard.in_mode(mode), pa.array(texts, pa.large_string()))
        return [verdicts.labels[code] if code >= 0 else None for code in verdicts.codes.tolist()]

    def _reflect(self, batch: list[Conversation]) -> Iterator[Conversation]:
        plain = [conversation for conversation in batch if not has_reflections(conversation)]
        prompts = list(dict.fromkeys(prompt for c in plain for prompt in _prompts(c) if prompt))
        segments = list(
            dict.fromkeys(
                s for c in plain for t in c.turns if t.role == "assistant" for s in cut(t.text, self.max_words)
            )
        )
        of_prompt = dict(zip(prompts, self.label(prompts, "prompt"), strict=True))
        of_segment = dict(zip(segments, self.label(segments, "response"), strict=True))
        for conversation in batch:
            if has_reflections(conversation):
                yield conversation
            elif (turns := self._turns(conversation, of_prompt, of_segment)) is not None:
                yield Conversation(conversation.id, conversation.source, turns)
            else:
                self.counts["dropped: the guard gave no verdict"] += 1

    def _turns(
        self,
        conversation: Conversation,
        of_prompt: dict[str, SafetyLabel | None],
        of_segment: dict[str, SafetyLabel | None],
    ) -> tuple[Turn, ...] | None:
        turns, prompts = [], iter(_prompts(conversation))
        met: Counter[str] = Counter()
        for turn in conversation.turns:
            if turn.role != "assistant":
                turns.append(turn)
                continue
            prompt = next(prompts)
            labels: list[tuple[str, str, SafetyLabel | None]] = [("prompts", "", of_prompt[prompt])] if prompt else []
            labels += [("segments", text, of_segment[text]) for text in cut(turn.text, self.max_words)]
            parts: list[Part] = []
            for what, text, label in labels:
                if label is None:
                    return None
                parts += [Part(Kind.TEXT, text)] if text else []
                parts += reflection_parts(label, self.form)
                met[f"{what} classified {self.form.resolve(label).verdict}"] += 1
            turns.append(Turn("assistant", tuple(parts)))
        self.counts += met
        return tuple(turns)


def has_reflections(conversation: Conversation) -> bool:
    """Whether it had them in its file already."""
    return any(part.kind is not Kind.TEXT for turn in conversation.turns for part in turn.parts)


def _prompts(conversation: Conversation) -> list[str]:
    """For each response, what the user said since the previous response, or ""."""
    prompts, said = [], ""
    for turn in conversation.turns:
        if turn.role == "user":
            said = f"{said}\n\n{turn.text}" if said else turn.text
        elif turn.role == "assistant":
            prompts.append(said if said.strip() else "")
            said = ""
    return prompts
