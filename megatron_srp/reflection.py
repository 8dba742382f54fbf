"""The text of a reflection: how a label is written into a document, and read back.

    <think> Safe </think>
    <think> Unsafe: Violent, PII </think>     and then the tokenizer's end-of-text token
    <think> Safe A letter arrives. </think>   with `hints`: SRP-Hint, the paper's appendix A

The paper's form (section 3) is plain text; `special_tokens` makes `<think>` and `</think>` tokens of
their own. The end-of-text token after a verdict in `stop_after` is what teaches a model to stop.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from megatron_srp.errors import UsageError
from megatron_srp.schema import SafetyLabel, Verdict

Controversial = Literal["keep", "safe", "unsafe"]
DEFAULT_STOP_AFTER = frozenset({Verdict.UNSAFE, Verdict.CONTROVERSIAL})


class Encoder(Protocol):
    """What a reflection needs from a tokenizer."""

    def encode_inside(self, text: str) -> list[int]: ...

    def require_eos(self) -> int: ...


def parse_stop_after(names: str, of: str = "document") -> frozenset[Verdict]:
    """`"Unsafe,Controversial"`, the value of --stop-after, as verdicts; an empty text or `none` for none at all.

    Args:
        of: what ends after such a verdict, for the message.
    """
    if names.strip().lower() in ("", "none"):
        return frozenset()
    verdicts = frozenset(Verdict.from_name(name) for name in names.split(","))
    if Verdict.SAFE in verdicts:
        raise UsageError(f"--stop-after Safe would end every {of} at its first segment; leave Safe out")
    return verdicts


@dataclass(frozen=True, slots=True)
class ReflectionFormat:
    """How labels become text and tokens.

        >>> from megatron_srp import ReflectionFormat, SafetyLabel, Verdict
        >>> ReflectionFormat(controversial="unsafe").render(SafetyLabel(Verdict.CONTROVERSIAL, ("Violent",)))
        '<think> Unsafe: Violent </think>'

    Attributes:
        open, close: the words around a verdict.
        stop_after: verdicts that are followed by the tokenizer's end-of-text token.
        controversial: keep that verdict, or write it as safe or as unsafe.
        special_tokens: whether `open` and `close` are single tokens of the tokenizer.
        hints: whether Safe labels are written, and read, with their hints.
    """

    open: str = "<think>"
    close: str = "</think>"
    stop_after: frozenset[Verdict] = DEFAULT_STOP_AFTER
    controversial: Controversial = "keep"
    special_tokens: bool = False
    hints: bool = False

    def __post_init__(self) -> None:
        if self.controversial not in get_args(Controversial):
            raise UsageError(f"--controversial {self.controversial!r}; choose from keep, safe, unsafe")

    def resolve(self, label: SafetyLabel) -> SafetyLabel:
        """The label as it is written, after the `controversial` policy; Safe has no categories."""
        verdict = label.verdict
        if verdict is Verdict.CONTROVERSIAL and self.controversial != "keep":
            verdict = Verdict.from_name(self.controversial)
        if verdict is Verdict.SAFE:
            return SafetyLabel(verdict, hint=label.hint if self.hints else "")
        return SafetyLabel(verdict, label.categories)

    def stops(self, label: SafetyLabel) -> bool:
        """Whether an end-of-text token follows the reflection."""
        return self.resolve(label).verdict in self.stop_after

    def render(self, label: SafetyLabel) -> str:
        """The reflection's text, e.g. `<think> Unsafe: Violent </think>`."""
        label = self.resolve(label)
        categories = f": {', '.join(label.categories)}" if label.categories else ""
        hint = f" {label.hint}" if label.hint else ""
        return f"{self.open} {label.verdict}{categories}{hint} {self.close}"

    def parse(self, text: str) -> SafetyLabel | None:
        """The label of a text that is a reflection and nothing else; None for any other text."""
        match = self._pattern().fullmatch(text)
        return self._label(match) if match else None

    def find(self, text: str) -> Iterator[tuple[int, int, SafetyLabel]]:
        """Start, end and label of every reflection in `text`."""
        for match in self._pattern().finditer(text):
            yield match.start(), match.end(), self._label(match)

    def text_inside(self, label: SafetyLabel) -> str:
        """The reflection's text as it is written after a segment."""
        # A text reflection is set off by a space, as the words around it are. Special tokens need none.
        return self.render(label) if self.special_tokens else f" {self.render(label)}"

    def encode(self, label: SafetyLabel, tokenizer: Encoder, stop: bool | None = None) -> list[int]:
        """The reflection as it is written after a segment, as R token ids.

        Args:
            stop: whether to append end-of-text; by default where `stops(label)`. False is for the end
                of a document that has its own end-of-text token.
        """
        ids = tokenizer.encode_inside(self.text_inside(label))
        return [*ids, tokenizer.require_eos()] if (self.stops(label) if stop is None else stop) else ids

    def describe(self) -> dict[str, object]:
        """All settings, as JSON; equal for formats that write the same reflections."""
        return {
            "open": self.open,
            "close": self.close,
            "stop_after": sorted(self.stop_after),
            "controversial": self.controversial,
            "tokens": "special" if self.special_tokens else "text",
            **({"hints": True} if self.hints else {}),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> "ReflectionFormat":
        """The inverse of `describe`; raises KeyError, TypeError, ValueError or UsageError for anything else."""
        return cls(
            open=description["open"],
            close=description["close"],
            stop_after=frozenset(Verdict(verdict) for verdict in description["stop_after"]),
            controversial=description["controversial"],
            special_tokens={"text": False, "special": True}[description["tokens"]],
            hints=description.get("hints", False),
        )

    def _pattern(self) -> re.Pattern[str]:
        verdicts = "|".join(Verdict)
        hint = rf"|(?<= {Verdict.SAFE}) ([^<>\n\r]+?)" if self.hints else "|(?!)()"
        return re.compile(rf"{re.escape(self.open)} ({verdicts})(?:: ([^<>\n\r]+?){hint})? {re.escape(self.close)}")

    @staticmethod
    def _label(match: re.Match[str]) -> SafetyLabel:
        names = [name.strip() for name in (match[2] or "").split(",")]
        return SafetyLabel(Verdict(match[1]), tuple(name for name in names if name), (match[3] or "").strip())


def reflection_format(args: argparse.Namespace) -> ReflectionFormat:
    """The form that parsed flags describe: --stop-after, --controversial, --reflection-tokens, --hints."""
    return ReflectionFormat(
        stop_after=parse_stop_after(args.stop_after),
        controversial=args.controversial,
        special_tokens=args.reflection_tokens == "special",
        hints=args.hints,
    )
