"""Several guards as one: `--guard ensemble:FILE.yaml`.

    rule: any-unsafe            # or majority
    guards:
      - guard: qwen3guard
        model: /weights/Qwen3Guard-Gen-0.6B
        threshold: 0.4
      - guard: llama-guard
        name: llama             # of its columns among the disagreements; the guard's own by default
        engine: http
        engine_options: {base_url: "http://127.0.0.1:8000/v1"}

any-unsafe: the worst verdict of any member. majority: the verdict of more than half of the members; without
one, the worst of the most frequent verdicts. Where members disagree, their results are written to the
store (`disagreements`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from math import nan
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from megatron_srp.annotation.base import Guard, GuardOptions, GuardResult, StringArray, labels_of
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.schema import SafetyLabel, Verdict

PREFIX = "ensemble:"
Choose = Callable[[list[GuardResult], int], Verdict | None]
LoadGuard = Callable[[str, GuardOptions], Guard]


def worst(votes: list[GuardResult], members: int) -> Verdict | None:
    """The worst verdict; None where a missing vote could change it."""
    found = max((vote.label.verdict for vote in votes), key=attrgetter("badness"), default=None)
    return found if len(votes) == members or found is Verdict.UNSAFE else None


def majority(votes: list[GuardResult], members: int) -> Verdict | None:
    """The verdict of most members; None where a missing vote could change it."""
    counts = Counter(vote.label.verdict for vote in votes)
    if not counts:
        return None
    found = max(counts, key=lambda verdict: (counts[verdict], verdict.badness))
    return found if len(votes) == members or counts[found] > members / 2 else None


RULES: dict[str, Choose] = {"any-unsafe": worst, "majority": majority}


class EnsembleGuard(Guard):
    """Classifies by the votes of its members.

    Args:
        members: by name, in order.
        rule: one of `RULES`.
    """

    name = "ensemble"

    def __init__(self, members: Mapping[str, Guard], rule: str) -> None:
        if rule not in RULES:
            raise UsageError(f"ensemble rule {rule!r}; {did_you_mean(rule, list(RULES))}")
        if len(members) < 2:
            raise UsageError(f"an ensemble of {len(members)} guards; name at least two")
        self.rule, self.guards = rule, members
        self.members = list(members)
        self.revision = "+".join(guard.revision for guard in members.values())

    @property
    def settings(self) -> dict[str, Any]:
        own = {"guard": self.name, "rule": self.rule}
        return own | {f"member {name}": guard.settings for name, guard in self.guards.items()}

    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        return labels_of(self.results(texts))

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        return self._join([guard.results(texts) for guard in self.guards.values()])

    def results_array(self, texts: StringArray) -> list[GuardResult]:
        return self._join([guard.results_array(texts) for guard in self.guards.values()])

    def in_mode(self, mode: str) -> "EnsembleGuard":
        return EnsembleGuard({name: guard.in_mode(mode) for name, guard in self.guards.items()}, self.rule)

    @property
    def preferred_workers(self) -> int:
        return max(guard.preferred_workers for guard in self.guards.values())

    def close(self) -> None:
        for guard in self.guards.values():
            guard.close()

    @property
    def incidents(self) -> Counter[str]:
        """The incidents of all members."""
        return sum((guard.incidents for guard in self.guards.values()), Counter())

    def _join(self, results: list[list[GuardResult]]) -> list[GuardResult]:
        return [self._decide(votes) for votes in zip(*results, strict=True)]

    def _decide(self, votes: tuple[GuardResult, ...]) -> GuardResult:
        given = [vote for vote in votes if not vote.failure]
        verdict = RULES[self.rule](given, len(votes))
        if verdict is None:
            name, vote = next((n, v) for n, v in zip(self.members, votes, strict=True) if v.failure)
            return GuardResult(failure=f"{name}: {vote.failure}", votes=votes)
        agreeing = [vote for vote in given if vote.label.verdict is verdict]
        categories = dict.fromkeys(category for vote in agreeing for category in vote.label.categories)
        scores = [vote.score for vote in agreeing if vote.score == vote.score]
        return GuardResult(SafetyLabel(verdict, tuple(categories)), max(scores, default=nan), votes=votes)


def load_ensemble(path: Path, load_guard: LoadGuard) -> EnsembleGuard:
    """The ensemble of a YAML file, its members loaded by `load_guard`; raises UsageError for a mistake in it."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries, rule = tree["guards"], tree["rule"]
        unknown = {*tree} - {"guards", "rule"}
    except OSError as error:
        raise UsageError(f"--guard {PREFIX}{path}: {error.strerror}") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not an ensemble, which has a rule and guards ({reason})") from None
    if unknown:
        raise UsageError(f"{path}: {min(unknown)!r} is not a field of an ensemble, which has a rule and guards")
    if not isinstance(entries, list):
        raise UsageError(f"{path}: guards is {entries!r}; pass a list of at least two, each `- guard: NAME`")
    members: dict[str, Guard] = {}
    try:
        for entry in entries:
            name, guard = _load_member(path, entry, load_guard)
            if name in members:
                raise UsageError(f"{path}: two guards are called {name!r}; give each a name")
            members[name] = guard
        return EnsembleGuard(members, str(rule))
    except BaseException:
        for guard in members.values():
            guard.close()
        raise


def _load_member(path: Path, entry: Any, load_guard: LoadGuard) -> tuple[str, Guard]:
    known = ["guard", "name", *(field.name for field in fields(GuardOptions) if field.name != "context_words")]
    if not isinstance(entry, dict) or "guard" not in entry:
        raise UsageError(f"{path}: every guard of an ensemble begins with `guard: NAME`; got {entry!r}")
    for option in entry:
        if option not in known:
            raise UsageError(f"{path}: {entry['guard']} has no option {option!r}; {did_you_mean(str(option), known)}")
    options = {name: value for name, value in entry.items() if name not in ("guard", "name")}
    guard = load_guard(str(entry["guard"]), GuardOptions(**options))
    return str(entry.get("name", guard.name)), guard
