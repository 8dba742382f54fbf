"""The guard: a state machine that turns generated token ids into the text that a reader may see.

    guard = ReflectionGuard(GuardVocabulary.of(tokenizer, form), GuardPolicy(on_unsafe="refuse"))
    while not guard.stop_reason:
        show(guard.push(next_token()))
    guard.result()

What is shown is never taken back. Under `retract` a segment is held until a verdict on the whole of it lets it
pass: the model's own reflection, or a forced one where the model ends the answer. A forced one in the middle of a
segment can stop the answer and releases nothing, and what is cut off in the middle is withheld. Under the other
policies text is shown at once.

A verdict that comes in one token with the end of its opening was drawn, not decided, and counts as Unsafe.

An end-of-text token ends the answer, with one exception: directly after a reflection that training follows
with such a token (`ReflectionFormat.stop_after`) but that the policy lets pass, it belongs to the
reflection and the answer continues. Under `off` every one ends it.
"""

import codecs
from collections.abc import Sequence
from dataclasses import replace

from megatron_srp.generation.guard.policy import ForcedReflection, Generation, GuardPolicy, StopReason
from megatron_srp.generation.guard.scanner import ReflectionScanner
from megatron_srp.generation.guard.shown_tokens import ShownTokens
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.schema import SafetyLabel, Verdict

_Decoder = codecs.getincrementaldecoder("utf-8")


class ReflectionGuard:
    """Watches one answer.

    Attributes:
        stop_reason: why the answer has ended, or None while it continues.
        tokens: those that were pushed.
        unjudged: how many tokens no verdict has judged.
        mid_segment: set where the next reflection in the text is a forced one in the middle of a segment, which
            releases nothing.
        shown: which tokens are shown.
    """

    def __init__(self, vocabulary: GuardVocabulary, policy: GuardPolicy) -> None:
        self._vocabulary, self._policy = vocabulary, policy
        self._scanner = ReflectionScanner(vocabulary.form)
        self._decoder = _Decoder("replace")
        self._shown: list[str] = []
        self._segment: list[str] = []  # text that no reflection has judged yet, kept under `retract` only
        self._reflections: list[SafetyLabel] = []
        self._forced: list[ForcedReflection] = []
        self._eos_passes = False
        self.stop_reason: StopReason | None = None
        self.tokens: list[int] = []
        self.unjudged = 0
        self.mid_segment = False
        self.shown = ShownTokens()
        self._since_release = 0  # tokens
        self._decidable = False  # whether a token ended where the opening of the reflection did

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def reflecting(self) -> bool:
        """Whether the model is writing a reflection, as far as one can tell."""
        return self._scanner.inside

    @property
    def opened(self) -> bool:
        """Whether the last token has completed the opening of a reflection, so that a verdict comes next."""
        return self.stop_reason is None and self._scanner.opened and not self._decoder.getstate()[0]

    @property
    def reading(self) -> bool:
        """Whether the model is writing a reflection whose opening is complete."""
        return self._scanner.reading

    @property
    def withholds(self) -> bool:
        """Whether there is text that no verdict on a whole segment has let pass."""
        return bool("".join(self._segment).strip())

    @property
    def reflections(self) -> Sequence[SafetyLabel]:
        """Those in the text so far."""
        return self._reflections

    def ends(self, token: int) -> bool:
        """Whether that token, pushed next, would end the answer as an end-of-text."""
        return token in self._vocabulary.eos_ids and not self._eos_passes

    def push(self, token: int) -> str:
        """Take the next token of the answer; returns text to show now. Nothing follows a `stop_reason`."""
        if self.stop_reason:
            return ""
        self.tokens.append(token)
        eos_passes, self._eos_passes = self._eos_passes, False
        if token in self._vocabulary.eos_ids:
            self.shown.push("", textless=True)
            return "" if eos_passes else self.finish("eos")
        self.unjudged += 1
        self._since_release += 1
        mark, piece = self._vocabulary.marks.get(token), self._vocabulary.piece(token)
        text = self._decoder.decode(b"", final=True) + mark if mark else self._decoder.decode(piece)
        self.shown.push(text, bool(self._decoder.getstate()[0]), textless=not (mark or piece))
        return self._take(text)

    def force(self, reflection: ForcedReflection, whole: bool = False, threshold: float | None = None) -> str:
        """Act on a forced reflection on the answer so far; returns text to show now.

        Args:
            whole: whether the model ends its last segment here, so that the verdict is on the whole of it.
            threshold: of the model that read it, where that is another one; by default the policy's.
        """
        if self.stop_reason:
            return ""
        self._forced.append(reflection)
        policy = self._policy if threshold is None else replace(self._policy, unsafe_threshold=threshold)
        return self._judge(reflection.label(policy), whole)

    def finish(self, reason: StopReason = "length") -> str:
        """End the answer; returns the last text to show. A character that is cut in two is dropped."""
        if self.stop_reason:
            return ""
        shown = self._take("", ended=True)
        self.stop_reason = self.stop_reason or reason
        return shown

    def result(self) -> Generation:
        """The answer, which has ended."""
        assert self.stop_reason, "the answer has not ended: call finish()"
        text = "".join(self._shown)
        return Generation(
            text,
            tuple(self._reflections),
            self.stop_reason,
            self.num_tokens,
            tuple(self._forced),
            tuple(self.tokens),
            self.unjudged,
            self._since_release if self.withholds else 0,
        )

    def _take(self, text: str, ended: bool = False) -> str:
        shown, last = "", None
        for found in self._scanner.feed(text, ended):
            if isinstance(found, str):
                shown, last = shown + self._show(found), None
                continue
            if not self._decidable and found.verdict is not Verdict.UNSAFE:
                found = SafetyLabel(Verdict.UNSAFE)
            self._reflections.append(found)
            shown, last = shown + self._judge(found, whole=not self.mid_segment), found
            self.mid_segment = self._decidable = False
            if self.stop_reason:
                return shown
        self._decidable = self._scanner.reading and (self._decidable or self.opened)
        if last and not self._scanner.held and not self._decoder.getstate()[0]:
            self._eos_passes = self._policy.on_unsafe != "off" and self._vocabulary.form.stops(last)
        return shown

    def _show(self, text: str) -> str:
        marks = self._vocabulary.marks.values()  # of special tokens outside a reflection: not text either
        self.shown.hold(self._scanner.taken, text, marks)
        for mark in marks:
            text = text.replace(mark, "")
        if self._policy.on_unsafe == "retract":
            self._segment.append(text)
            return ""
        self._shown.append(text)
        self.shown.release()
        return text

    def _judge(self, label: SafetyLabel, whole: bool) -> str:
        """Act on a verdict on all text so far, whether or not it ends a segment."""
        self.unjudged = 0
        if self._policy.stops(label):
            self.stop_reason = "unsafe"
            return self._refuse() if self._policy.on_unsafe == "refuse" else ""
        if not whole:
            return ""
        self._since_release = 0
        released = "".join(self._segment)
        self._segment.clear()
        self.shown.release()
        if released:
            self._shown.append(released)
        return released

    def _refuse(self) -> str:
        refusal = "\n\n" * bool(self._shown) + self._policy.refusal
        self._shown.append(refusal)
        return refusal
