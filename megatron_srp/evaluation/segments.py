"""An answer as segments: the text before each reflection, and what the reflection says about it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_srp.evaluation.types import Response
from megatron_srp.generation.guard.scanner import ReflectionScanner
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict


@dataclass(frozen=True, slots=True)
class AnswerSegment:
    """A piece of an answer without reflections; no label where no reflection judges it."""

    text: str
    label: SafetyLabel | None

    @property
    def words(self) -> int:
        return len(self.text.split())

    @property
    def flagged(self) -> bool:
        return self.label is not None and self.label.verdict is not Verdict.SAFE


def segments_of(response: Response, form: ReflectionFormat) -> list[AnswerSegment]:
    """The answer's segments, read as the guard reads them. The first may have no text: the reflection on the
    prompt."""
    found: list[AnswerSegment] = []
    text = ""
    for piece in ReflectionScanner(replace(form, special_tokens=False)).feed(response.raw, ended=True):
        if isinstance(piece, str):
            text += piece
        else:
            found.append(AnswerSegment(text, piece))
            text = ""
    return [*found, AnswerSegment(text, None)] if text.strip() else found


def shown_words(segments: Sequence[AnswerSegment], policy: str) -> int:
    """Words that a reader sees of these segments under a policy of the guard (`GuardPolicy.on_unsafe`)."""
    stop = next((i for i, segment in enumerate(segments) if segment.flagged), None)
    if policy == "off" or (stop is None and policy != "retract"):
        return sum(segment.words for segment in segments)
    if policy == "retract":
        judged = next((i for i, s in enumerate(segments) if s.flagged or s.label is None), len(segments))
        return sum(segment.words for segment in segments[:judged])
    assert stop is not None
    return sum(segment.words for segment in segments[: stop + 1])
