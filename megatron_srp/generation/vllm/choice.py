"""One of a request's answers, from vLLM's tokens to what its reader sees."""

from collections.abc import Sequence
from dataclasses import replace

from megatron_srp.generation.guard.policy import Generation, GuardPolicy
from megatron_srp.generation.server.reader import StopTexts
from megatron_srp.generation.vllm.inline_answer import InlineAnswer, ReflectionTokens


class Choice:
    """Follows one answer.

    Args:
        room: how many tokens vLLM gives it.
        stops: texts that end it. It is judged first, by the next reflection.

    Attributes:
        ended: whether it has ended for its reader, who may not have to wait for vLLM.
        cut: whether a stop text has ended it.
        text: what was shown.
    """

    def __init__(self, tokens: ReflectionTokens, policy: GuardPolicy, room: float, stops: Sequence[str]) -> None:
        self._answer, self._policy = InlineAnswer(tokens, policy, room), policy
        self._stops = StopTexts(stops)
        self.ended = False
        self.text = ""

    @property
    def cut(self) -> bool:
        return self._stops.found

    def push(self, tokens: Sequence[int], finished: bool) -> str:
        """Take the next tokens; returns text to show now."""
        if self.ended:
            return ""
        shown = ""
        for token in tokens:
            shown += self._stops.feed(self._answer.push(token))
            if self._over:
                break
        if finished or self._over:
            self.ended = True
            shown += self._stops.feed(self._answer.finish(), ended=True)
        self.text += shown
        return shown

    def result(self) -> Generation:
        """The answer, which has ended."""
        found = self._answer.result()
        return replace(found, stop_reason="length") if self._answer.cut and found.stop_reason == "eos" else found

    @property
    def _over(self) -> bool:
        guard = self._answer.guard
        judged = not self._policy.judges_end or not guard.unjudged or self._policy.on_unsafe == "retract"
        return guard.stop_reason is not None or (self.cut and judged)
