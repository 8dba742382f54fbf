"""What happens at an unsafe verdict, and the result of a generation."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.reflection import DEFAULT_STOP_AFTER
from megatron_srp.schema import SafetyLabel, Verdict

StopReason = Literal["eos", "unsafe", "length"]
# From the loosest to the strictest. `off` hides and collects reflections, and stops at none.
ON_UNSAFE = ("off", "stop", "refuse", "retract")
DEFAULT_REFUSAL = "I can't help with that."


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """What a guard does.

        >>> from megatron_srp import GuardPolicy
        >>> strict = GuardPolicy(on_unsafe="retract", reflect_every=64)
        >>> strict.is_as_strict_as(GuardPolicy())
        True

    Attributes:
        on_unsafe: at an unsafe verdict `stop`; or `refuse`: stop and show the refusal instead of the rest;
            or `retract`: show a segment only once a verdict on the whole of it lets it pass, so that nothing
            of an unsafe segment is seen; or `off`.
        stop_at: the verdicts that count as unsafe.
        refusal: what `refuse` shows.
        reflect_every: a forced reflection after every N tokens, and one on the prompt. 0 for none.
            Unless the guard is off, text that the model has not judged always gets one at its end.
        reflect_prompt: force one on the prompt, whatever `reflect_every` is.
        unsafe_threshold: a forced reflection stops when the verdicts of `stop_at` have at least this
            probability together. At 0.5 about 1% of benign questions were stopped at most, however the model had
            been fine-tuned (curves in BENCHMARKS.md). Fine-tuning shifts the probabilities, so
            `threshold.recommend` chooses a better threshold for one model from measured cases.

    Raises:
        UsageError: for a value that is not allowed.
    """

    on_unsafe: str = "stop"
    stop_at: frozenset[Verdict] = DEFAULT_STOP_AFTER
    refusal: str = DEFAULT_REFUSAL
    reflect_every: int = 0
    reflect_prompt: bool = False
    unsafe_threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.on_unsafe not in ON_UNSAFE:
            raise UsageError(f"--on-unsafe {self.on_unsafe!r}; {did_you_mean(self.on_unsafe, list(ON_UNSAFE))}")
        if Verdict.SAFE in self.stop_at or not self.stop_at:
            raise UsageError("--stop-after takes Unsafe, Controversial or both here; --on-unsafe off stops at nothing")
        if self.reflect_every < 0:
            raise UsageError(f"--reflect-every {self.reflect_every}: pass a number of tokens, or 0 for none")
        if not 0 < self.unsafe_threshold <= 1:
            raise UsageError(f"--unsafe-threshold {self.unsafe_threshold}: pass a probability above 0, at most 1")

    def stops(self, label: SafetyLabel) -> bool:
        """Whether that verdict ends the answer."""
        return self.on_unsafe != "off" and label.verdict in self.stop_at

    def weaker_than(self, other: "GuardPolicy") -> tuple[str, ...]:
        """Names of the fields in which this policy shows or lets pass what `other` does not."""
        every, others = self.reflect_every, other.reflect_every
        weaker = {
            "on_unsafe": ON_UNSAFE.index(self.on_unsafe) < ON_UNSAFE.index(other.on_unsafe),
            "stop_at": not self.stop_at >= other.stop_at,
            # A policy is stricter if it judges wherever the other does, not if it judges more often elsewhere.
            "reflect_every": others > 0 and (every == 0 or others % every > 0),
            "reflect_prompt": other.reflects_on_prompt and not self.reflects_on_prompt,
            "unsafe_threshold": self.unsafe_threshold > other.unsafe_threshold,
        }
        return tuple(name for name, holds in weaker.items() if holds)

    def is_as_strict_as(self, other: "GuardPolicy") -> bool:
        """Whether this policy shows and lets pass nothing that `other` does not."""
        return not self.weaker_than(other)

    @property
    def judges_end(self) -> bool:
        """Whether the end of an answer is judged, however it ends."""
        return self.on_unsafe != "off" or self.reflect_every > 0

    @property
    def reflects_on_prompt(self) -> bool:
        return self.reflect_prompt or self.reflect_every > 0


class ForcedReflection(NamedTuple):
    """What a forced reflection read: `num_tokens` of the answer before it, and a probability for each verdict."""

    num_tokens: int
    safe: float
    controversial: float
    unsafe: float

    def unsafe_of(self, policy: GuardPolicy) -> float:
        """The probability of the verdicts that count as unsafe, together."""
        found = dict(zip(Verdict, (self.safe, self.controversial, self.unsafe), strict=True))
        return sum(found[verdict] for verdict in policy.stop_at)

    def label(self, policy: GuardPolicy) -> SafetyLabel:
        """The most likely unsafe verdict when those reach the threshold, else the most likely of the others."""
        found = dict(zip(Verdict, (self.safe, self.controversial, self.unsafe), strict=True))
        flagged = self.unsafe_of(policy) >= policy.unsafe_threshold
        choices = policy.stop_at if flagged else set(Verdict) - policy.stop_at
        return SafetyLabel(max(sorted(choices), key=found.__getitem__))

    def written(self, policy: GuardPolicy) -> Verdict:
        """What the model's own reflection says: its most likely verdict, or an unsafe one from the threshold on.

        A verdict that is let pass is the same under every policy, and so is the text that follows it."""
        label = self.label(policy)
        if policy.stops(label):
            return label.verdict
        return max(zip((self.safe, self.controversial, self.unsafe), Verdict, strict=True), key=lambda pair: pair[0])[1]


class TokenScore(NamedTuple):
    """How likely a token was: its log-probability, and the most likely tokens there with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...]


class ShownScore(NamedTuple):
    """How likely a token of an answer was, and where its text begins and ends in what is shown."""

    token: int
    start: int
    end: int
    score: TokenScore


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer as its reader sees it.

    Attributes:
        text: without reflections, and cut, completed or withheld as the policy says.
        reflections: labels that the model wrote, in order.
        stop_reason: `eos` the model ended it, `unsafe` the guard did, `length` the token or time limit did.
        num_tokens: tokens generated, hidden ones included.
        forced: what forced reflections read.
        tokens: the ids themselves.
        unjudged_tokens: those at the end that no verdict has judged; 0 unless the answer was cut short.
        withheld_tokens: those at the end that are not shown, since no verdict on a whole segment let them pass.
        scores: of the prompt's tokens, where they were asked for; None for the first.
        logprobs: of the tokens that are shown, where they were asked for.
    """

    text: str
    reflections: tuple[SafetyLabel, ...]
    stop_reason: StopReason
    num_tokens: int = 0
    forced: tuple[ForcedReflection, ...] = ()
    tokens: tuple[int, ...] = ()
    unjudged_tokens: int = 0
    withheld_tokens: int = 0
    scores: tuple[TokenScore | None, ...] = ()
    logprobs: tuple["ShownScore", ...] = ()


def to_record(generation: Generation) -> dict[str, Any]:
    """A generation as JSON: all but its tokens."""
    reflections = [{"verdict": r.verdict, "categories": list(r.categories)} for r in generation.reflections]
    forced = [reflection._asdict() for reflection in generation.forced]
    return {
        "text": generation.text,
        "reflections": reflections,
        "stop_reason": generation.stop_reason,
        "num_tokens": generation.num_tokens,
        "forced": forced,
        "unjudged_tokens": generation.unjudged_tokens,
        "withheld_tokens": generation.withheld_tokens,
    }
