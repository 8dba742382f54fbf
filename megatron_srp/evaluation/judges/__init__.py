"""Judges: they decide whether an answer is what was asked for.

    heuristic   words of refusal, and reflections: free, and easily wrong
    strict      the same, but a flag after harmful text comes too late
    llm         a chat model at an endpoint, asked with prompts.yaml
    harmbench   HarmBench's classifier, a language model that answers yes or no
    reference   looks for the data set's right answer, where it has one
    mixed       heuristic and llm both say so

A question is `jailbreak` (does the answer show the behavior?), `refusal` (does it refuse?) or `preference`
(is it at least as good as the reference?). A judge's opinion is cached under the content of what it read.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from megatron_srp.errors import SrpError
from megatron_srp.evaluation.results import Results, key_of
from megatron_srp.evaluation.types import Response

JUDGES = ("heuristic", "strict", "llm", "harmbench", "mixed")  # of an attack
QUESTIONS = ("jailbreak", "refusal", "preference")
_CHUNK = 256  # opinions that are kept together


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a judge reads: the request in its own words, the answer with its prefill, and a reference answer."""

    request: str
    response: Response
    prefill: str = ""
    reference: str = ""

    @property
    def answer(self) -> str:
        """The answer as its reader sees it, prefill included."""
        return self.prefill + self.response.text


class Opinion(NamedTuple):
    """A judge's answer to its question; None where there is no answer, for the reason in `failure`."""

    verdict: bool | None
    failure: str = ""


class Judge(ABC):
    """Answers one question about exchanges.

    Attributes:
        name: for the columns of a report.
        questions: that it can be asked.
    """

    name: ClassVar[str]
    questions: ClassVar[tuple[str, ...]] = ("jailbreak",)

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that its opinions depend on, besides what `reads` returns."""

    @abstractmethod
    def reads(self, exchange: Exchange, question: str) -> Any:
        """The parts of an exchange that its opinion depends on, as JSON."""

    @abstractmethod
    def judge(self, exchanges: Sequence[Exchange], question: str) -> list[Opinion]:
        """An opinion on each. Raises GuardError when it can give none."""

    def close(self) -> None:  # noqa: B027 (most have nothing to release)
        """Release its resources."""


def judge_all(
    judge: Judge,
    exchanges: Sequence[Exchange],
    question: str,
    results: Results,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Opinion]:
    """Opinions on all exchanges, from `results` where they are known; failures are retried in the
    next run."""
    keys = [key_of(judge.name, judge.settings, question, judge.reads(e, question)) for e in exchanges]
    failed: dict[str, Opinion] = {}
    missing = list(dict.fromkeys(k for k in keys if k not in results))
    first = dict(zip(reversed(keys), reversed(exchanges), strict=True))
    for at in range(0, len(missing), _CHUNK):
        chunk = missing[at : at + _CHUNK]
        opinions = dict(zip(chunk, judge.judge([first[key] for key in chunk], question), strict=True))
        results.add((k, {"verdict": o.verdict}) for k, o in opinions.items() if o.verdict is not None)
        failed |= {k: o for k, o in opinions.items() if o.verdict is None}
        advance(len(chunk))
    return [failed[key] if key in failed else Opinion(results[key]["verdict"]) for key in keys]


def both(a: Sequence[Opinion], b: Sequence[Opinion]) -> list[Opinion]:
    """The mixed judge: yes only where both say so, no opinion where one has none and the other does not say no."""

    def combine(x: Opinion, y: Opinion) -> Opinion:
        if x.verdict is False or y.verdict is False:
            return Opinion(False)
        return Opinion(True) if x.verdict and y.verdict else Opinion(None, x.failure or y.failure)

    return [combine(x, y) for x, y in zip(a, b, strict=True)]


def mix(opinions: dict[str, list[Opinion]], not_run: dict[str, str]) -> None:
    """Add the mixed judge's opinions, or why there are none."""
    if "heuristic" in opinions and "llm" in opinions:
        opinions["mixed"] = both(opinions["heuristic"], opinions["llm"])
    else:
        not_run["mixed"] = not_run.get("llm") or "needs the judges heuristic and llm"


class JudgePanel:
    """The judges that a run has, and why others are missing."""

    def __init__(self, judges: Sequence[Judge], missing: Mapping[str, str], results: Results) -> None:
        self.judges = {judge.name: judge for judge in judges}
        self.missing, self._results = dict(missing), results

    def ask(
        self, names: Sequence[str], exchanges: Sequence[Exchange], question: str
    ) -> tuple[dict[str, list[Opinion]], dict[str, str]]:
        """Opinions by judge, and why the other judges have none."""
        opinions: dict[str, list[Opinion]] = {}
        not_run: dict[str, str] = {}
        for name in names:
            if name == "mixed":
                continue
            judge = self.judges.get(name)
            if judge is None or question not in judge.questions:
                not_run[name] = self.missing.get(name, f"the {name} judge is not asked about a {question}")
                continue
            try:
                opinions[name] = judge_all(judge, exchanges, question, self._results)
            except SrpError as error:
                not_run[name] = str(error)
        if "mixed" in names:
            mix(opinions, not_run)
        return opinions, not_run

    def close(self) -> None:
        for judge in self.judges.values():
            judge.close()
